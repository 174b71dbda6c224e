"""The memory of this process, as Linux tells it. Imports nothing: it runs beside peers too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def peak_of(run: Callable[[], object]) -> float:
    """MB that the process held at most while it ran, beyond what it held before."""
    # The peak is that of the process which started this one, until the kernel is told to forget.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    run()
    return memory("VmHWM") - before


def memory(field: str) -> float:
    """MB by a field of /proc/self/status: VmRSS is what is held now, VmHWM the most that was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return kib * 1024 / 1e6
