"""The largest batch that the memory holds, found by trying."""

from __future__ import annotations

import gc
import logging
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from dataset_tools.errors import InputError

logger = logging.getLogger(__name__)
MIB = 2**20
# Share of the memory that a run may fill: batches differ, and evaluation comes on top.
SAFE_SHARE = 0.8
LARGEST = 4096


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        batch: images per process that fit.
        base_mib: memory of model, optimizer and program.
        mib_per_image: what every image adds, gradients and activations.
        available_mib: memory that the run may fill.
    """

    batch: int
    base_mib: float
    mib_per_image: float
    available_mib: float


def report(cfg: CfgNode) -> int:
    """Print the largest SOLVER.IMS_PER_BATCH for `--probe-batch-size`."""
    probe = probe_batch_size(lambda images: _train_two_steps(cfg, images), cfg.MODEL.DEVICE)
    total = probe.batch * comm.get_world_size()
    if comm.is_main_process():
        print(
            f"\nThe memory holds SOLVER.IMS_PER_BATCH {total}: {probe.base_mib:.0f} MiB and"
            f" {probe.mib_per_image:.0f} MiB more per image, of {probe.available_mib:.0f} MiB that"
            f" may be filled. The config has {cfg.SOLVER.IMS_PER_BATCH}. The learning rate follows"
            " where SERIATIM.SOLVER.REFERENCE_BATCH says what it is meant for."
        )
    return 0


def probe_batch_size(run: Callable[[int], None], device: str) -> Probe:
    """Find how many images fit.

    On CUDA the batch is doubled until memory runs out. A CPU must not be driven there, so the peaks
    of batches of 1, 2 and 4 images are measured and extended in a straight line.

    Args:
        run: trains a step or two with so many images in this process.

    Raises:
        InputError: not even one image fits.
    """
    return _probe_cuda(run) if device.startswith("cuda") else _probe_cpu(run)


def _probe_cuda(run: Callable[[int], None]) -> Probe:
    peaks: dict[int, float] = {}
    batch = 1
    while batch <= LARGEST:
        torch.cuda.reset_peak_memory_stats()
        try:
            run(batch)
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        peaks[batch] = torch.cuda.max_memory_allocated() / MIB
        batch *= 2
    if not peaks:
        raise InputError("Not even one image fits into the memory of this GPU.")
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / MIB
    return _extend(peaks, SAFE_SHARE * total, limit=batch - 1)


def _probe_cpu(run: Callable[[int], None]) -> Probe:
    base = resident_mib()
    # What is free now and what this program holds already, less a share for everything else.
    available = SAFE_SHARE * (available_mib() + base)
    peaks = {batch: peak_resident_mib(lambda batch=batch: run(batch)) for batch in (1, 2, 4)}
    return _extend(peaks, available, limit=LARGEST)


def _extend(peaks: dict[int, float], available: float, limit: int) -> Probe:
    """A straight line through the smallest and the largest batch that were measured."""
    small, large = min(peaks), max(peaks)
    slope = (peaks[large] - peaks[small]) / max(1, large - small)
    slope = max(slope, 1.0)  # a tiny model's growth drowns in noise
    base = peaks[small] - slope * small
    batch = min(limit, int((available - base) / slope))
    if batch < 1:
        raise InputError(
            f"Not even one image fits: a step takes {peaks[small]:.0f} MiB, {available:.0f} MiB may"
            " be filled. Use smaller images (SERIATIM.AUG.SIZE, INPUT.MIN_SIZE_TRAIN) or a smaller"
            " model."
        )
    return Probe(batch, base, slope, available)


def _train_two_steps(cfg: CfgNode, images: int) -> None:
    """In the second step the optimizer's state is there too."""
    from seriatim.engine.trainer import Trainer

    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = images * comm.get_world_size()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.freeze()
    trainer = Trainer(cfg)
    with EventStorage():
        for trainer.iter in range(2):
            trainer.run_step()


def peak_resident_mib(run: Callable[[], None], interval: float = 0.005) -> float:
    """The largest resident memory of this process while `run` runs, sampled every `interval` s."""
    gc.collect()
    peak, done = resident_mib(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(interval):
            peak = max(peak, resident_mib())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
        gc.collect()
    return peak


def resident_mib() -> float:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def available_mib() -> float:
    """Memory that can be taken without swapping, a container's limit observed (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    free = int(fields["MemAvailable"].split()[0]) / 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, (int(limit.read_text()) - int(used.read_text())) / MIB)
    return free
