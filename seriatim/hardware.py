"""What this machine can do, and what the config's "auto" means on it."""

from __future__ import annotations

from pathlib import Path

import torch

from dataset_tools.errors import InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Flags of /proc/cpuinfo: x86 with AVX-512 or AMX, and ARM.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def native_bf16(device: torch.device | str) -> bool:
    """Whether `device` computes in bfloat16 itself; where it is emulated, float32 is faster."""
    device = torch.device(device)
    if device.type == "cuda":
        # Tensor cores take bfloat16 since compute capability 8.0 (Ampere).
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(cpu_flags() & _CPU_FLAGS)


def cpu_flags() -> frozenset[str]:
    """Feature flags of the processor as /proc/cpuinfo spells them; none where that is missing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    names = ("flags", "Features")
    return frozenset(
        next((line.partition(":")[2].split() for line in lines if line.startswith(names)), [])
    )


def choose_device(value: str) -> torch.device:
    """The device that MODEL.DEVICE names: "auto" is the first of CUDA, Apple's GPU and the CPU.

    Raises:
        InputError: the device does not exist here.
    """
    if value == "auto":
        return torch.device(_best_device())
    try:
        device = torch.device(value)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"MODEL.DEVICE is {value!r}, which cannot be used here: {reason} This machine has:"
            f" {', '.join(devices())}. MODEL.DEVICE auto takes the best of them."
        ) from None
    return device


def devices() -> list[str]:
    """All devices that MODEL.DEVICE can name here, the best first."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def _best_device() -> str:
    best = devices()[0]
    return "cuda" if best.startswith("cuda") else best


def choose_precision(value: str, device: torch.device | str) -> torch.dtype:
    """The dtype that SERIATIM.SOLVER.PRECISION names on `device`.

    "auto" is bfloat16 where it is native, which is faster than float32 and has its range, so that
    no loss scaling is needed; float32 elsewhere.

    Raises:
        InputError: no such precision, or float16 on a device that is not CUDA.
    """
    if value == "auto":
        return torch.bfloat16 if native_bf16(device) else torch.float32
    if value not in _DTYPES:
        raise InputError(
            f"SERIATIM.SOLVER.PRECISION is {value!r}; it can be auto, {', '.join(_DTYPES)}."
        )
    if value == "float16" and torch.device(device).type != "cuda":
        raise InputError(
            f"SERIATIM.SOLVER.PRECISION float16 needs a CUDA device (its range asks for loss"
            f" scaling, which exists there only), but MODEL.DEVICE is {device}. Use auto, bfloat16"
            f" or float32."
        )
    return _DTYPES[value]


def choose_memory_format(value: str, device: torch.device | str) -> torch.memory_format:
    """The memory format that SERIATIM.SOLVER.CHANNELS_LAST names on `device`.

    "auto" is channels-last where convolutions are faster with it: the CPU (oneDNN) and CUDA's
    tensor cores.

    Raises:
        InputError: the value is not one of auto, on, off.
    """
    if value not in {"auto", "on", "off"}:
        raise InputError(f"SERIATIM.SOLVER.CHANNELS_LAST is {value!r}; it can be auto, on or off.")
    on = value == "on" or (value == "auto" and torch.device(device).type in {"cpu", "cuda"})
    return torch.channels_last if on else torch.contiguous_format
