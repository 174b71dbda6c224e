"""Is the learning rate sane?"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from seriatim.engine.train_step import NonFiniteError
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Context
from seriatim.gates.practice import practise, smoothed
from seriatim.gates.verdict import Cause, Finding

# One batch again and again: its loss falls or rises by the rate alone, not by the luck of the draw.
STEPS, BATCH = 60, 4
LOWEST, HIGHEST = 1e-7, 10.0
DIVERGED = 3.0  # times the smallest smoothed loss
# The configured rate may lie so far from the suggestion before a word is said: schedules, batch
# sizes and clipping move the best rate by a few times, not by a hundred.
BAND = 30.0


class LearningRateGate(Gate):
    """A range test (Smith 2017, arXiv 1506.01186): the rate rises until the loss breaks away."""

    name = "lr"
    question = "is the learning rate sane?"
    fast = False
    stops = False

    def examine(self, context: Context, folder: Path) -> str:
        records = context.covering(context.train_records, BATCH)
        if not records:
            raise Skip("no training image has objects")
        practice = practise(context, records, STEPS, BATCH, "lr")
        base = [group["lr"] for group in practice.trainer.optimizer.param_groups]
        peak = context.cfg.SOLVER.BASE_LR
        share = [
            group.get("initial_lr", lr) / peak
            for group, lr in zip(practice.trainer.optimizer.param_groups, base, strict=True)
        ]
        rates = np.geomspace(LOWEST, HIGHEST, STEPS)

        def raise_rate(step: int) -> None:
            for group, factor in zip(practice.trainer.optimizer.param_groups, share, strict=True):
                group["lr"] = float(rates[step] * factor)

        try:
            for _ in range(STEPS):
                practice.run(1, before=raise_rate)
                losses = smoothed(practice.total(), 0.8)
                if len(losses) > 10 and losses[-1] > DIVERGED * losses.min():
                    break
        except NonFiniteError:
            pass  # that is how a range test ends
        losses = smoothed(practice.total(), 0.8)
        if len(losses) < 8:
            raise Skip("the loss is not finite even at the smallest rate")
        suggestion, limit = suggest(rates[: len(losses)], losses)
        self.numbers |= {"configured": peak, "suggested": suggestion, "breaks away at": limit}
        self._draw(rates[: len(losses)], losses, peak, suggestion, folder)
        self._judge(peak, suggestion, limit)
        told = f"{peak:g} configured, about {suggestion:.1g} suggested"
        return f"{told}, the loss breaks away at {limit:.1g}"

    def _judge(self, peak: float, suggestion: float, limit: float) -> None:
        if peak > limit or peak > BAND * suggestion:
            found, cause = (
                "above",
                Cause("a rate for another optimizer or a larger batch", "SOLVER.BASE_LR"),
            )
        elif peak < suggestion / BAND:
            found, cause = (
                "below",
                Cause("a rate for another optimizer, or a lost factor of ten", "SOLVER.BASE_LR"),
            )
        else:
            return
        self.findings.append(
            Finding(
                f"SOLVER.BASE_LR {peak:g} is far {found} what the range test suggests"
                f" ({suggestion:.1g}; the loss breaks away at {limit:.1g}).",
                f"{suggestion / BAND:.1g} to {min(limit, BAND * suggestion):.1g}.",
                [
                    cause,
                    Cause("the loss is scaled unusually: a sum instead of a mean, or the reverse"),
                ],
                fails=False,
                pictures=["range.png"],
            )
        )

    def _draw(
        self, rates: np.ndarray, losses: np.ndarray, peak: float, suggestion: float, folder: Path
    ) -> None:
        figure, axes = plt.subplots(figsize=(7, 3.2))
        axes.semilogx(rates, losses)
        axes.axvline(peak, color="tab:red", linestyle="--", label=f"configured {peak:g}")
        axes.axvline(
            suggestion, color="tab:green", linestyle="--", label=f"suggested {suggestion:.1g}"
        )
        axes.set(
            xlabel="learning rate",
            ylabel="loss, smoothed",
            ylim=(0, losses[: len(losses) // 2].max() * 1.5),
        )
        axes.legend()
        figure.tight_layout()
        figure.savefig(folder / "range.png", dpi=110)
        plt.close(figure)
        self.evidence.append("range.png")


def suggest(rates: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """The rate of the steepest fall, and the rate from which the loss only rises."""
    lowest = int(np.argmin(losses))
    limit = float(rates[min(lowest + 1, len(rates) - 1)])
    if lowest < 3:
        return float(rates[0]), limit
    slope = np.gradient(losses[: lowest + 1], np.log(rates[: lowest + 1]))
    steepest = float(rates[int(np.argmin(slope))])
    # Half-way (in orders of magnitude) between the steepest fall and the lowest loss.
    return math.sqrt(steepest * rates[lowest]) / math.sqrt(10), limit
