"""Which number format and memory layout a run uses."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from dataset_tools.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def resolve_precision(cfg: CfgNode) -> str:
    """SERIATIM.SOLVER.PRECISION, with "auto" turned into what the device does natively.

    Raises:
        InputError: the name is unknown, or float16 is asked for without CUDA.
    """
    precision = cfg.SERIATIM.SOLVER.PRECISION
    if precision not in PRECISIONS:
        raise InputError(
            f"SERIATIM.SOLVER.PRECISION is {precision!r}; it can be one of {', '.join(PRECISIONS)}."
        )
    on_cuda = cfg.MODEL.DEVICE.startswith("cuda")
    if precision == "float16" and not on_cuda:
        raise InputError(
            "SERIATIM.SOLVER.PRECISION float16 needs loss scaling on CUDA, but MODEL.DEVICE is"
            f" {cfg.MODEL.DEVICE}. Use bfloat16 or float32."
        )
    if precision == "auto":
        return "bfloat16" if has_native_bfloat16(cfg.MODEL.DEVICE) else "float32"
    return precision


def resolve_channels_last(cfg: CfgNode, precision: str) -> bool:
    """SERIATIM.SOLVER.CHANNELS_LAST, with "auto" meaning on: convolutions on CPU, and in half precision on CUDA."""
    wish = cfg.SERIATIM.SOLVER.CHANNELS_LAST
    if wish not in ("auto", "on", "off"):
        raise InputError(
            f'SERIATIM.SOLVER.CHANNELS_LAST is {wish!r}; it can be "auto", "on" or "off".'
        )
    if wish == "auto":
        return cfg.MODEL.DEVICE == "cpu" or precision != "float32"
    return wish == "on"


def has_native_bfloat16(device: str) -> bool:
    """Whether `device` multiplies bfloat16 in hardware rather than by way of float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        units = torch.cpu.get_capabilities()
        return any(units.get(unit, False) for unit in ("amx_bf16", "avx512_bf16", "bf16"))
    return False
