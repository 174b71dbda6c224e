"""The training loss on images that are not trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from seriatim.engine.state import preserve_plain_state, preserve_rng, seed_everything
from seriatim.modeling.mixing import unmixed


class ValidationLoss(HookBase):
    """Put the mean loss over the validation images into the event storage every `period` steps.

    Detectron2's models give losses in training mode only, where BatchNorm would learn from the
    validation data and dropout would draw numbers. Here those layers stay in evaluation mode, the
    generators are seeded alike each time and put back afterwards, and so are the loss normalisers
    that RetinaNet and FCOS keep: training goes on as if the loss had not been measured.

    Args:
        period: steps between two measurements (also after the last step).
        build_loader: gives batches with annotations, each time in the same order.
    """

    def __init__(
        self, period: int, build_loader: Callable[[], Iterable[list[dict[str, Any]]]]
    ) -> None:
        self._period = period
        self._build_loader = build_loader

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            self._measure()

    def _measure(self) -> None:
        model = self.trainer.evaluation_model
        with preserve_rng():
            losses = mean_losses(model, self._build_loader(), self.trainer.compute_losses)
        if comm.is_main_process():
            for name, value in losses.items():
                self.trainer.storage.put_scalar(f"validation/{name}", value, smoothing_hint=False)


def mean_losses(
    model: nn.Module,
    batches: Iterable[list[dict[str, Any]]],
    compute: Callable[[nn.Module, list[dict[str, Any]]], dict[str, torch.Tensor]],
    seed: int = 0,
) -> dict[str, float]:
    """The mean of each loss and of their total over all images; the model stays as it was."""
    sums: dict[str, float] = defaultdict(float)
    images = 0
    with loss_mode(model), torch.no_grad(), EventStorage():
        for index, batch in enumerate(batches):
            seed_everything(seed + index)
            for name, loss in compute(model, batch).items():
                sums[name] += float(loss) * len(batch)
            images += len(batch)
    gathered = comm.gather((dict(sums), images))
    total_images = sum(n for _, n in gathered)
    if not total_images:
        return {}
    names = {name: None for part, _ in gathered for name in part}
    means = {
        name: sum(part.get(name, 0.0) for part, _ in gathered) / total_images for name in names
    }
    return means | {"total_loss": sum(means.values())}


@contextmanager
def loss_mode(model: nn.Module) -> Iterator[None]:
    """The model gives its losses, without dropout or mixing, unchanged for good."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    for module in model.modules():
        if _learns_or_drops(module):
            module.eval()
    try:
        with preserve_plain_state(model), unmixed(model):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def _learns_or_drops(module: nn.Module) -> bool:
    known = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return (
        isinstance(module, known) or type(module).__name__ == "DropPath"
    )  # timm's and Detectron2's own
