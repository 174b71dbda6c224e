"""--dry-run and --probe-batch-size."""

import gc
import mmap
import time

import pytest
import torch
from torch import nn

from dataset_tools.errors import InputError
from seriatim.engine import batch_size
from seriatim.engine.batch_size import peak_resident_mib, probe_batch_size, resident_mib
from seriatim.engine.dry_run import config_changes, count_flops
from seriatim.engine.run import start

from .support import arguments, load, write_config


def test_dry_run_shows_everything_and_writes_nothing(tmp_path, capsys):
    assert start(arguments(write_config(tmp_path), "--dry-run")) == 0
    output = capsys.readouterr().out
    assert "MODEL.META_ARCHITECTURE: 'GeneralizedRCNN' → 'RetinaNet'" in output
    assert "12 images (1 without objects)" in output and "circle" in output
    assert "backbone.bottom_up" in output and "multiply-adds" in output
    assert "s per step of 4 images" in output and "for 6 steps" in output
    assert not (tmp_path / "output").exists()


def test_only_what_differs_is_a_change(config_file):
    changes = config_changes(load(config_file))
    assert "SOLVER.MAX_ITER: 40000 → 6" in changes
    assert not [line for line in changes if line.startswith("SOLVER.MOMENTUM")]


def test_flops_of_a_convolution():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)

        def forward(self, inputs):
            return self.conv(inputs[0]["image"][None])

    flops = count_flops(Net(), [{"image": torch.zeros(3, 10, 20)}])
    assert flops == 10 * 20 * 8 * 3 * 3 * 3


def test_the_peak_of_memory_is_seen():
    gc.collect()
    before = resident_mib()

    def take():
        # Pages from the system: what the allocator has kept from earlier tests would not add up.
        with mmap.mmap(-1, 64 * 2**20) as block:
            for start in range(0, len(block), mmap.PAGESIZE):
                block[start] = 1
            time.sleep(0.05)

    assert 50 < peak_resident_mib(take, interval=0.001) - before < 120


def test_the_largest_batch_is_extended_from_small_ones(monkeypatch):
    peaks = {1: 140.0, 2: 180.0, 4: 260.0}  # 100 MiB and 40 MiB an image
    tried = []
    monkeypatch.setattr(batch_size, "resident_mib", lambda: 100.0)
    monkeypatch.setattr(batch_size, "available_mib", lambda: 1150.0)

    def measure(run):
        run()
        return peaks[tried[-1]]

    monkeypatch.setattr(batch_size, "peak_resident_mib", measure)
    probe = probe_batch_size(tried.append, "cpu")
    assert tried == [1, 2, 4]
    assert probe.mib_per_image == 40 and probe.base_mib == 100
    assert probe.batch == 22  # 80 % of 1250 MiB, less 100, by 40
    monkeypatch.setattr(batch_size, "available_mib", lambda: 20.0)
    with pytest.raises(InputError, match="one image"):
        probe_batch_size(tried.append, "cpu")


def test_probe_reports(tmp_path, capsys):
    assert start(arguments(write_config(tmp_path), "--probe-batch-size")) == 0
    assert "SOLVER.IMS_PER_BATCH" in capsys.readouterr().out
    assert not (tmp_path / "output").exists()
