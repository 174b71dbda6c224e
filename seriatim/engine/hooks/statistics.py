"""Numbers that show a sick training before its loss does."""

from __future__ import annotations

import resource
from collections import defaultdict

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn


class Statistics(HookBase):
    """Throughput, share of time spent on data, memory, and update/weight ratio of the layers.

    The ratio is |change of the weights in one step| / |weights|; around 1e-3 is healthy, 0 means
    that nothing learns, 1e-1 that the rate is too high (Karpathy, CS231n). Layers are grouped by
    the first two parts of their names.

    Args:
        period: steps between two measurements.
        histogram_period: steps between two sets of histograms of weights and gradients; 0: none.
    """

    def __init__(self, period: int, histogram_period: int = 0) -> None:
        self._period, self._histogram_period = period, histogram_period
        self._before: dict[str, list[torch.Tensor]] = {}

    def before_step(self) -> None:
        if self._is_due(self._period):
            self._before = {
                group: [p.detach().clone() for p in parameters]
                for group, parameters in self._groups().items()
            }

    def after_step(self) -> None:
        if self._is_due(self._period):
            self._record_ratios()
            self._record_resources()
        if self._histogram_period > 0 and self._is_due(self._histogram_period):
            self._record_histograms()

    def _is_due(self, period: int) -> bool:
        return comm.is_main_process() and (self.trainer.iter + 1) % period == 0

    def _groups(self) -> dict[str, list[nn.Parameter]]:
        groups = defaultdict(list)
        for name, parameter in self.trainer.bare_model.named_parameters():
            if parameter.requires_grad:
                groups[".".join(name.split(".")[:2])].append(parameter)
        return groups

    @torch.no_grad()
    def _record_ratios(self) -> None:
        for group, parameters in self._groups().items():
            before = self._before[group]
            change = torch.nn.utils.get_total_norm(torch._foreach_sub(parameters, before))
            size = torch.nn.utils.get_total_norm(before)
            self.trainer.storage.put_scalar(
                f"update_ratio/{group}", float(change / size.clamp(min=1e-12))
            )
        self._before = {}

    def _record_resources(self) -> None:
        storage = self.trainer.storage
        histories = storage.histories()
        if "time" in histories:  # from the fourth step on
            seconds = histories["time"].latest()
            storage.put_scalar("images_per_second", self.trainer.images_last_step / seconds)
            storage.put_scalar(
                "data_time_share", min(1.0, histories["data_time"].latest() / seconds)
            )
        storage.put_scalar("memory_mib", memory_mib(), smoothing_hint=False)

    def _record_histograms(self) -> None:
        for name, parameter in self.trainer.bare_model.named_parameters():
            if parameter.requires_grad:
                self.trainer.storage.put_histogram(
                    f"weights/{name}", parameter.detach().float().cpu()
                )
                if parameter.grad is not None:
                    self.trainer.storage.put_histogram(
                        f"gradients/{name}", parameter.grad.float().cpu()
                    )


def memory_mib() -> float:
    """Peak memory of the CUDA device, or else the resident memory of this process, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
