"""Does every trainable parameter learn, and does what is frozen stay?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from dataset_tools.errors import InputError
from seriatim.engine.trainer import Trainer
from seriatim.gates import flow, loaded, optimizing, sharing, standing, updates
from seriatim.gates.base import Gate
from seriatim.gates.context import Batch, Context
from seriatim.gates.observe import some_records
from seriatim.gates.steps import STEPS, gradient_norms, small_trainer, take_steps
from seriatim.gates.verdict import Finding

SHORT_EDGE = 192  # px; gradients flow, or do not, at any size


class GradientsGate(Gate):
    """A few steps of the pipeline's own trainer, looked at parameter by parameter."""

    name = "gradients"
    question = "does every trainable parameter learn?"
    packages = ("seriatim.modeling", "seriatim.engine", "seriatim.data", "seriatim.checkpoint")

    def examine(self, context: Context, folder: Path) -> str:
        trainer = small_trainer(context)
        model, numbers = trainer.bare_model, self.numbers
        batches = _batches(context)
        self._add(optimizing.membership(model, trainer.optimizer))
        self._add(loaded.pretrained(context, trainer, numbers))
        self._add(optimizing.decay(trainer.optimizer))
        self._add(optimizing.moments(trainer.optimizer))
        self._add(optimizing.driven(trainer.scheduler, trainer.optimizer))
        self._add(optimizing.spread(model, trainer.optimizer))
        if trainer.average is not None:
            self._add(optimizing.memory(trainer.average.decay_at, context.cfg.SOLVER.MAX_ITER))
        self._add(sharing.sharing(context, model, batches[0]))
        self._add(standing.dropout(model))
        self._add(standing.random_and_frozen(context))
        self._add(optimizing.schedule(trainer.scheduler, context.cfg.SOLVER.MAX_ITER, numbers))
        self._add(standing.small_batches(model, context.cfg.SOLVER.IMS_PER_BATCH))
        self._add(loaded.channel_order(context, model, numbers))
        before = {name: t.detach().clone() for name, t in model.state_dict().items()}
        rate = _rate_to_peak(trainer.optimizer)
        hooks = standing.count_hooks(model)
        norms = self._steps(trainer, batches)
        self._add(standing.hooks(hooks, standing.count_hooks(model)))
        if norms is None:
            return ""
        self._add(flow.flow(context, model, norms, batches[0]))
        self._add(flow.scale(model, norms, numbers))
        self._add(standing.frozen(model, before))
        self._add(standing.learning(model, before))
        self._add(standing.statistics(model, before))
        if not any(finding.fails for finding in self.findings):
            asleep = {name for name, values in norms.items() if values[0] == 0}
            self._add(updates.update(model, before, rate, asleep, numbers))
            self._add(updates.average(trainer, before, numbers))
            self._add(updates.repetition(trainer, batches[0], numbers))
        draw_flow(norms, folder / "gradients.png")
        self.evidence.append("gradients.png")
        told = f"{numbers.get('update at the peak rate', math.nan):.1e}"
        return f"all {len(norms)} trainable tensors learn; the peak rate moves weights by {told}"

    def _add(self, findings: Iterable[Finding]) -> None:
        self.findings += findings

    def _steps(self, trainer: Trainer, batches: list[Batch]) -> flow.Norms | None:
        """The norms of the gradients in each step; None if something is not finite.

        Gradients arrive from the last layer to the first: that tells the order of the layers.
        """
        found: flow.Norms = {
            name: [] for name, p in trainer.bare_model.named_parameters() if p.requires_grad
        }
        for batch in batches:
            start = None if any(found.values()) else _copies(trainer.bare_model)
            with gradient_norms(trainer.bare_model) as norms:
                try:
                    take_steps(trainer, [batch])
                except (InputError, FloatingPointError) as error:
                    self._add(flow.not_finite(str(error), norms))
                    return None
            if start is not None:
                self._add(updates.descent(trainer.bare_model, start))
            for name, values in found.items():
                values.append(norms.get(name, math.nan))
            bad = {name: norm for name, norm in norms.items() if not math.isfinite(norm)}
            if bad:
                self._add(flow.not_finite("", bad))
                return None
        order = [*reversed(norms), *(name for name in found if name not in norms)]
        return {name: found[name] for name in order}


def _copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def _batches(context: Context) -> list[Batch]:
    """Images that cover the classes, two a step."""
    records = some_records(context, 2 * STEPS)
    images = context.inputs(records, short_edge=SHORT_EDGE)
    while len(images) < 2 * STEPS:
        images = images + images
    return [images[2 * i : 2 * i + 2] for i in range(STEPS)]


def _rate_to_peak(optimizer: torch.optim.Optimizer) -> float:
    """Peak learning rate / present one, which warm-up has lowered."""
    group = max(optimizer.param_groups, key=lambda g: g.get("initial_lr", g["lr"]))
    peak = group.get("initial_lr", group["lr"])
    if group["lr"] == 0:  # a warm-up from 0: the steps taken here are one at 1 % of the peak
        for each in optimizer.param_groups:
            each["lr"] = each.get("initial_lr", 0.0) / 100
    return peak / group["lr"] if group["lr"] else 1.0


def draw_flow(norms: dict[str, list[float]], path: Path) -> None:
    """Gradient norm of each parameter, from the input to the output, in each step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for step in range(max((len(values) for values in norms.values()), default=0)):
        axes.plot(
            [max(v[step], 1e-12) for v in norms.values()], ".", ms=3, label=f"step {step + 1}"
        )
    axes.set_yscale("log")
    axes.set_xlabel("parameters, from the first layer to the last")
    axes.set_ylabel("norm of the gradient")
    axes.legend()
    figure.savefig(path, dpi=110)
