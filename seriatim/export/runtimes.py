"""The three formats: how a traced model is written, and how its file is run."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dataset_tools.errors import InputError
from seriatim.export.description import FILES

OPSET = 17  # of ONNX 1.12, which every runtime of the last years reads
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino"), "torchscript": ()}

Run = Callable[[np.ndarray], list[np.ndarray]]


def check_installed(format: str, *, to_write: bool) -> None:
    """
    Raises:
        InputError: a package that the format needs is not installed.
    """
    needed = PACKAGES[format] if to_write else PACKAGES[format][1:]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"The format {format} needs {' and '.join(missing)}, which is not installed:"
            " pip install 'seriatim[export]', or pip install " + " ".join(missing) + "."
        )


def write(format: str, graph: nn.Module, example: torch.Tensor, folder: Path) -> None:
    """Trace `graph` on `example` and write it to `folder`; any batch and size goes in later."""
    path = folder / FILES[format]
    with torch.inference_mode(), warnings.catch_warnings():
        # Sizes are asked of the example in many places; that they follow the image is checked.
        warnings.simplefilter("ignore")
        if format == "torchscript":
            traced = torch.jit.trace(graph, example, check_trace=False)
            torch.jit.freeze(traced).save(str(path))
            return
        onnx = folder / FILES["onnx"]
        _write_onnx(graph, example, onnx)
    if format == "openvino":
        import openvino

        openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)
        onnx.unlink()


def _write_onnx(graph: nn.Module, example: torch.Tensor, path: Path) -> None:
    axes = {"image": {0: "batch", 2: "height", 3: "width"}}
    axes |= {name: {0: "batch", 1: "place"} for name in graph.outputs if name != "levels"}
    axes |= {"levels": {0: "place"}, "logits": {0: "batch"}}
    names = ["image", *graph.outputs]
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            # Detectron2's code asks tensors for their size, which tracing follows.
            dynamo=False,
            opset_version=OPSET,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: axes[name] for name in names},
        )
    finally:
        quiet.setLevel(level)


def load(format: str, folder: Path, threads: int = 0) -> Run:
    """The function that a written model is: (N, C, H, W) float32 → its outputs.

    Args:
        threads: that it computes with; 0: as many as torch.

    Raises:
        InputError: the runtime is not installed, or the file is not there or broken.
    """
    check_installed(format, to_write=False)
    path = folder / FILES[format]
    if not path.is_file():
        raise InputError(f"{folder} has no {path.name}: export the model again.")
    try:
        return LOADERS[format](path, threads or torch.get_num_threads())
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} cannot be loaded: {reason} Export the model again.") from None


def _load_onnx(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = [
        name
        for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
        if name in onnxruntime.get_available_providers()
    ]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own classes have no common base but this
        raise RuntimeError(str(error)) from error
    return lambda images: session.run(None, {"image": images})


def _load_openvino(path: Path, threads: int) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(
        path, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda images: [np.array(value) for value in compiled(images).values()]


def _load_torchscript(path: Path, threads: int) -> Run:
    module = torch.jit.load(str(path), map_location="cpu").eval()

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            found = module(torch.from_numpy(images))
        return [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]

    return run


LOADERS: dict[str, Callable[[Path, int], Run]] = {
    "onnx": _load_onnx,
    "openvino": _load_openvino,
    "torchscript": _load_torchscript,
}
