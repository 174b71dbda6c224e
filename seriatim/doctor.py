"""`python -m seriatim.doctor`: what is installed here, what the machine can do, and what to mend.

Exit code 0 when all is well, 2 when something is missing or broken.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
INSTALL_DETECTRON2 = f"cd {CHECKOUT} && {sys.executable} -m tools.detectron2"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        value: what was found.
        problem: what is wrong with it; empty: nothing.
        mend: the command that puts it right.
    """

    name: str
    value: str
    problem: str = ""
    mend: str = ""


def examine() -> list[Finding]:
    """Look at everything; a check that breaks is itself a finding."""
    findings: list[Finding] = []
    for check in (_python, _packages, _torch_pair, _detectron2, _devices, _machine):
        try:
            findings.extend(check())
        except Exception as error:
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding(name, "cannot be examined", f"{type(error).__name__}: {error}"))
    return findings


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    problem = "" if sys.version_info >= (3, 11) else "Seriatim needs Python 3.11 or newer"
    yield Finding(
        "Python", f"{version} ({sys.executable})", problem, "PYTHON=python3.11 make setup"
    )


# Modules that the code imports, and the package that brings each.
_MODULES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "PIL": "Pillow",
    "cv2": "opencv-python-headless",
    "pycocotools.mask": "pycocotools",
    "faster_coco_eval": "faster-coco-eval",
    "fvcore": "fvcore",
    "timm": "timm",
    "tensorboard": "tensorboard",
    "scipy": "scipy",
    "shapely": "shapely",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "msgspec": "msgspec",
    "yaml": "pyyaml",
}


def _packages() -> Iterator[Finding]:
    for module, package in _MODULES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            mend = f"{sys.executable} -m pip install {package}"
            yield Finding(package, "missing", f"import {module}: {error}", mend)
        else:
            yield Finding(package, _version(package, module))


def _version(package: str, module: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # The same module from another package, such as opencv-python.
        return str(getattr(sys.modules[module.split(".")[0]], "__version__", "unknown version"))


def _torch_pair() -> Iterator[Finding]:
    """torchvision's compiled operators fit one version of torch only."""
    import torch
    from torchvision.ops import nms

    try:
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        pins = CHECKOUT / "constraints.txt"
        mend = f"{sys.executable} -m pip install --constraint {pins} torch torchvision"
        yield Finding("torchvision operators", "broken", f"do not fit this torch: {reason}", mend)
    else:
        yield Finding("torchvision operators", "work")


def _detectron2() -> Iterator[Finding]:
    try:
        import detectron2
        from detectron2 import model_zoo  # noqa: F401  what breaks first on current libraries
    except ModuleNotFoundError as error:
        if error.name == "detectron2":
            yield Finding("Detectron2", "missing", "it cannot be imported", INSTALL_DETECTRON2)
        else:
            yield _broken_detectron2(error)
        return
    except (ImportError, AttributeError) as error:
        yield _broken_detectron2(error)
        return
    yield Finding("Detectron2", f"{detectron2_kind()} ({Path(detectron2.__file__).parent})")
    yield from _detectron2_extension()


def _broken_detectron2(error: Exception) -> Finding:
    if isinstance(error, ModuleNotFoundError) and error.name == "pkg_resources":
        # Upstream's model zoo imports it; the mended version does not.
        mend = f"{sys.executable} -m pip install 'setuptools<81'"
        problem = "it needs pkg_resources, which setuptools 81 removed"
        return Finding("Detectron2", "broken", problem, mend)
    mend = f"{sys.executable} -m pip uninstall --yes detectron2 && {INSTALL_DETECTRON2}"
    return Finding("Detectron2", "broken", f"importing it: {type(error).__name__}: {error}", mend)


def detectron2_kind() -> str:
    """Which Detectron2 is installed, with its version: mended, upstream compiled, or another."""
    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    if "+seriatim" in version:
        return f"{version}, mended 0.6 without compiled parts"
    try:
        from detectron2 import _C
    except ImportError:
        return f"{version}, without its extension"
    compiled = str(_C.__file__).endswith((".so", ".pyd"))
    return f"{version}, {'compiled upstream' if compiled else 'of another make'}"


def _detectron2_extension() -> Iterator[Finding]:
    import torch

    try:
        from detectron2 import _C
        from detectron2.layers import nms_rotated

        nms_rotated(torch.zeros(1, 5), torch.zeros(1), 0.5)
    except (ImportError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        mend = f"{sys.executable} -m pip uninstall --yes detectron2 && {INSTALL_DETECTRON2}"
        yield Finding("Detectron2's extension", "broken", reason, mend)
        return
    cuda = _C.get_cuda_version()
    compiler = _C.get_compiler_version()
    yield Finding(
        "Detectron2's extension", f"compiler {compiler}, CUDA {cuda.removeprefix('CUDA ')}"
    )


def _devices() -> Iterator[Finding]:
    import torch

    from seriatim.hardware import choose_precision, devices, native_bf16

    for name in devices():
        parts = [str(choose_precision("auto", name)).removeprefix("torch.") + " by default"]
        parts.append(f"bfloat16 {'native' if native_bf16(name) else 'emulated'}")
        if name.startswith("cuda"):
            properties = torch.cuda.get_device_properties(name)
            parts.insert(0, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        yield Finding(f"Device {name}", ", ".join(parts))
    problem = mend = ""
    if Path("/proc/driver/nvidia").exists() and not torch.cuda.is_available():
        problem = "there is an NVIDIA driver, but PyTorch does not see a GPU"
        mend = f'nvidia-smi; {sys.executable} -c "import torch; torch.cuda.init()"'
    yield Finding("CUDA of PyTorch", torch.version.cuda or "none (CPU build)", problem, mend)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("Cores", str(cores))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Finding("Memory", f"{total / 2**30:.1f} GiB")


def report(findings: list[Finding], write: Callable[[str], object] = print) -> int:
    """Print the findings, problems last with the command that mends each; gives the exit code."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        write(f"{'!' if finding.problem else ' '} {finding.name:<{width}}  {finding.value}")
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        write(f"\n{finding.name}: {finding.problem}.")
        if finding.mend:
            write(f"  {finding.mend}")
    write("\nAll is well." if not problems else f"\n{len(problems)} to mend, as above.")
    return 2 if problems else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit code."""
    summary, _, codes = (__doc__ or "").partition("\n\n")
    argparse.ArgumentParser(
        prog="python -m seriatim.doctor", description=summary, epilog=codes
    ).parse_args(arguments)
    return report(examine())


if __name__ == "__main__":
    sys.exit(main())
