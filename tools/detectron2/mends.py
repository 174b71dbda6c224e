"""What has to change in the sources of Detectron2 0.6 for today's libraries, and why.

Each mend replaces one piece of text in one file and states how often that piece occurs. A count
that differs stops the build: the sources are not the ones that the mend was written for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class MendError(Exception):
    """A mend does not fit the sources."""


@dataclass(frozen=True, slots=True)
class Mend:
    """Replace `old` by `new` in `file`, which must occur `count` times; `why` is for the documentation."""

    file: str
    old: str
    new: str
    count: int
    why: str

    def apply(self, tree: Path) -> None:
        """Apply to the source tree.

        Raises:
            MendError: the file is missing, or `old` occurs another number of times.
        """
        path = tree / self.file
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise MendError(f"{self.file} is not in {tree}, but a mend is meant for it.") from None
        found = text.count(self.old)
        if found != self.count:
            raise MendError(
                f"{self.file} has {found} times {self.old!r} where {self.count} are expected."
            )
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def apply(tree: Path) -> None:
    """Apply all mends, in their order, to the unpacked sources in `tree`."""
    for mend in MENDS:
        mend.apply(tree)


def table(mends: Iterable[Mend] | None = None) -> str:
    """The mends as a Markdown table."""
    lines = ["| file | was | is | times | why |", "|---|---|---|---|---|"]
    for mend in MENDS if mends is None else mends:
        cells = (mend.file, _code(mend.old), _code(mend.new), str(mend.count), mend.why)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _code(text: str) -> str:
    """Text as inline code on one line; what spans lines is joined by ⏎."""
    joined = " ⏎ ".join(line.strip() for line in text.strip().splitlines()).replace("|", "\\|")
    return f"`{joined}`" if joined else "(nothing)"


_PILLOW = "Pillow 10 removed `Image.LINEAR`"
_NUMPY = "NumPy 1.24 removed the aliases of Python's types"
_MESHGRID = "PyTorch demands that the order of `meshgrid`'s axes is said"
_AMP = "`torch.cuda.amp` is deprecated in favour of `torch.amp`"
_WARN = "`Logger.warn` is deprecated"
_CPU = "the replacement of `_C` works on every device, which the compiled one does not"
_SCRIPT = (
    "`torch.jit.script` is deprecated and warns at import; nothing but TorchScript export needs it"
)

_COMMENT = "  # any device will do"
_SEM_SEG = "detectron2/evaluation/sem_seg_evaluation.py"
_DEFORM = "detectron2/layers/deform_conv.py"
_TRAIN_LOOP = "detectron2/engine/train_loop.py"
_ZOO = "detectron2/model_zoo/model_zoo.py"

MENDS: tuple[Mend, ...] = (
    # Pillow
    Mend("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR", 1, _PILLOW),
    # NumPy
    Mend("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n", 1, _NUMPY),
    Mend("detectron2/data/build.py", "dtype=np.int)", "dtype=int)", 1, _NUMPY),
    Mend("detectron2/data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", 1, _NUMPY),
    Mend("detectron2/evaluation/pascal_voc_evaluation.py", "(np.bool)", "(bool)", 2, _NUMPY),
    Mend(
        _SEM_SEG,
        "np.array(output, dtype=np.int)",
        "output.numpy().astype(int)",
        1,
        "NumPy 2 deprecates `np.array` of what has no `copy` argument, such as a tensor",
    ),
    Mend(_SEM_SEG, "dtype=np.int)", "dtype=int)", 1, _NUMPY),
    Mend(_SEM_SEG, "dtype=np.float)", "dtype=float)", 2, _NUMPY),
    Mend(_SEM_SEG, "(np.float)", "(float)", 3, _NUMPY),
    Mend("detectron2/structures/masks.py", "(np.bool)", "(bool)", 2, _NUMPY),
    Mend("detectron2/structures/masks.py", "dtype=np.bool)", "dtype=bool)", 1, _NUMPY),
    Mend("detectron2/utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)", 1, _NUMPY),
    Mend("detectron2/utils/visualizer.py", "(np.bool)", "(bool)", 3, _NUMPY),
    # Python and setuptools
    Mend(
        _ZOO,
        "import pkg_resources\n",
        "from importlib import resources\n",
        1,
        "setuptools 81 removed `pkg_resources`",
    ),
    Mend(
        _ZOO,
        'pkg_resources.resource_filename(\n        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'str(resources.files("detectron2.model_zoo").joinpath("configs", config_path))',
        1,
        "setuptools 81 removed `pkg_resources`",
    ),
    Mend("detectron2/data/datasets/coco.py", "logger.warn(", "logger.warning(", 2, _WARN),
    Mend("detectron2/engine/defaults.py", "logger.warn(", "logger.warning(", 1, _WARN),
    Mend("detectron2/evaluation/coco_evaluation.py", "_logger.warn(", "_logger.warning(", 2, _WARN),
    Mend("detectron2/evaluation/lvis_evaluation.py", "logger.warn(", "logger.warning(", 2, _WARN),
    Mend(_SEM_SEG, "_logger.warn(", "_logger.warning(", 2, _WARN),
    # PyTorch
    Mend(
        "detectron2/modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        1,
        _MESHGRID,
    ),
    Mend(
        "projects/Panoptic-DeepLab/panoptic_deeplab/post_processing.py",
        "torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n",
        'torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n        indexing="ij",\n',
        1,
        _MESHGRID,
    ),
    Mend(_TRAIN_LOOP, "from torch.cuda.amp import", "from torch.amp import", 2, _AMP),
    Mend(_TRAIN_LOOP, "with autocast():", 'with autocast("cuda"):', 1, _AMP),
    Mend(
        "detectron2/checkpoint/detection_checkpoint.py",
        "torch.load(f)",
        "torch.load(f, weights_only=True)",
        1,
        "a file of weights is data: nothing in it is executed",
    ),
    Mend(
        "detectron2/export/__init__.py",
        "from .api import *\n",
        "try:\n    from .api import *\nexcept ImportError:  # PyTorch no longer brings Caffe2\n    pass\n",
        1,
        "PyTorch 2 no longer brings Caffe2; the rest of the export works without it",
    ),
    Mend("detectron2/modeling/box_regression.py", "@torch.jit.script\n", "", 2, _SCRIPT),
    Mend(
        "detectron2/modeling/meta_arch/retinanet.py",
        "get_norm(norm, 1)",
        "get_norm(norm, 32)",
        1,
        "PyTorch refuses a GroupNorm of 32 groups over 1 channel",
    ),
    Mend(
        "detectron2/__init__.py",
        "from .utils.env import setup_environment\n",
        "import warnings\n\nfrom .utils.env import setup_environment\n\n"
        "with warnings.catch_warnings():\n"
        "    # At import fvcore uses torch.jit.script, which is deprecated; users cannot do anything about it.\n"
        '    warnings.simplefilter("ignore", FutureWarning)\n'
        "    import fvcore.nn as _\n",
        1,
        "fvcore still calls `torch.jit.script` at import: its warning would open every run",
    ),
    # The replacement of detectron2._C
    Mend(_DEFORM, "if not input.is_cuda:", f"if False:{_COMMENT}", 2, _CPU),
    Mend(_DEFORM, "if not grad_output.is_cuda:", f"if False:{_COMMENT}", 2, _CPU),
)
