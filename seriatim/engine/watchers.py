"""What the Watch hook looks for while a model trains, one class each.

Thresholds stand at the top with their reason. They are meant to be silent on healthy runs: what a
watcher says is worth a person's time.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.layers import CNNBlockBase
from torch import nn
from torch.nn import functional as F

# Losses of detectors have heavy tails: batches of 2 images differ by a factor. A spike is far
# outside of both what the last steps spread over, and what their middle is.
SPIKE_STEPS, SPIKE_SPREADS, SPIKE_FACTOR = 100, 10.0, 3.0
# Pretrained networks have some channels that are always zero; a layer that has lost half is dying.
DEAD_SHARE, DEAD_SAMPLES, DEAD_FEWEST = 0.5, 20, 8
# |change in a step| / |weights|, see the gates' `gradients`; in so many measurements in a row.
LARGEST_UPDATE, LEAST_UPDATE, UPDATES = 1e-1, 1e-6, 5
# A loader as fast as the model is never waited for.
WAITING_SHARE, WAITING_IGNORED = 0.25, 10
# The validation loss must have been worse than its best, by this share, so many times in a row.
GAP_RISE, GAP_TIMES = 0.05, 3
# The loss has fallen, with 97.5 % confidence, by less than this share between two spans of so many
# periods at least, and the rate is not yet at the low end of its schedule.
PLATEAU_FALL, PLATEAU_PERIODS, PLATEAU_RATE = 0.02, 3, 0.1
# Images are told when each was seen often, and theirs is this many spreads and this factor above
# the loss of the middle image. At the end of training fewer visits must do.
NOISE_VISITS, NOISE_VISITS_AT_END, NOISE_SPREADS, NOISE_FACTOR, NOISE_IMAGES = 10, 3, 5.0, 2.0, 12


@dataclass(frozen=True)
class Step:
    """What is known of a step that is done.

    Attributes:
        number: steps done, this one included; last: whether it is the last one.
        loss: total, mean over micro-batches and processes.
        batches: what this process saw, with the total loss of each.
        latest: the event storage's scalars: name → (value, iteration).
        rate: the learning rate relative to its peak.
    """

    number: int
    last: bool
    loss: float
    batches: Sequence[tuple[list[dict[str, Any]], float]]
    latest: Mapping[str, tuple[float, int]]
    rate: float

    def scalar(self, name: str) -> float | None:
        """A scalar that was put in this very step."""
        value, iteration = self.latest.get(name, (0.0, -1))
        return value if iteration == self.number - 1 else None


@dataclass(frozen=True)
class Noticed:
    """What a watcher says.

    Attributes:
        text: what was measured, what healthy looks like, what to do.
        images: file names that belong to it, each with a caption.
    """

    text: str
    images: Sequence[tuple[str, str]] = ()


class Watcher:
    """Looks at every step, and may say something; what it says is told once in a run.

    Attributes:
        name: of what it says.
    """

    name: str

    def before(self, number: int) -> None:
        """The step after which `number` steps are done is about to run."""

    def look(self, step: Step) -> Noticed | None:
        raise NotImplementedError

    def close(self) -> None:
        """Training ends."""

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint. It must depend on nothing but the steps, never on time."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""


class Spikes(Watcher):
    """A loss far above those of the last steps."""

    name = "spike"

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=SPIKE_STEPS)

    def look(self, step: Step) -> Noticed | None:
        said = self._judge(step) if len(self._recent) == SPIKE_STEPS else None
        self._recent.append(step.loss)
        return said

    def _judge(self, step: Step) -> Noticed | None:
        middle, spread = middle_and_spread(np.fromiter(self._recent, float))
        if step.loss < max(SPIKE_FACTOR * middle, middle + SPIKE_SPREADS * spread):
            return None
        names = [str(item.get("file_name", "?")) for batch, _ in step.batches for item in batch]
        return Noticed(
            f"The loss jumped to {step.loss:.4g}; over the {SPIKE_STEPS} steps before, its median"
            f" is {middle:.4g} and it spreads by {spread:.2g}. One jump heals; if they come again:"
            " clip the gradients (SOLVER.CLIP_GRADIENTS.ENABLED True), lower SOLVER.BASE_LR, or"
            f" look at the labels of this step's images: {', '.join(names[:16])}.",
            [(name, "in the step of the jump") for name in names[:NOISE_IMAGES]],
        )

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._recent.extend(state["recent"])


class Plateau(Watcher):
    """A loss that no longer falls although the learning rate has not been lowered."""

    name = "plateau"

    def __init__(self, period: int) -> None:
        self._period = period
        self._losses: list[float] = []
        self._spans: list[tuple[float, float]] = []  # mean of a period, and the mean's variance

    def look(self, step: Step) -> Noticed | None:
        self._losses.append(step.loss)
        if len(self._losses) < self._period:
            return None
        variance = float(np.var(self._losses)) / len(self._losses)
        self._spans.append((float(np.mean(self._losses)), variance))
        self._losses = []
        return self._judge(step)

    def _judge(self, step: Step) -> Noticed | None:
        # The spans grow with the run: what is slow takes longer to tell from what stands still.
        count = max(PLATEAU_PERIODS, len(self._spans) // 4)
        if len(self._spans) < 2 * count or step.rate < PLATEAU_RATE:
            return None
        older = np.array(self._spans[-2 * count : -count])
        newer = np.array(self._spans[-count:])
        before, after = older[:, 0].mean(), newer[:, 0].mean()
        error = float(np.sqrt(older[:, 1].sum() + newer[:, 1].sum())) / count
        if before - after + 2 * error > PLATEAU_FALL * before:
            return None
        return Noticed(
            f"The loss no longer falls: {before:.4g} and then {after:.4g} (± {error:.2g}) are its"
            f" means over {count * self._period} steps each, at {step.rate:.0%} of the peak rate."
            " If the metric stands still too, lower the rate now (an earlier SOLVER.STEPS, or"
            " SOLVER.LR_SCHEDULER_NAME WarmupCosineLR) or end here (SOLVER.MAX_ITER). If this loss"
            " is far above what the gate overfit10 reached, the model is too small or the"
            " augmentation too strong for it."
        )

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self._losses), "spans": list(self._spans)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._losses = list(state["losses"])
        self._spans = [(mean, variance) for mean, variance in state["spans"]]


class DeadUnits(Watcher):
    """Channels behind a ReLU that gave nothing but zero over a whole period.

    Outputs are looked at in `DEAD_SAMPLES` steps of a period. A dead channel has no gradient and
    does not come back (Lu 2019, arXiv 1903.06733).
    """

    name = "dead units"

    def __init__(self, model: nn.Module, period: int) -> None:
        self._period, self._every = period, max(1, period // DEAD_SAMPLES)
        self._layers = {n: m for n, m in model.named_modules() if is_rectified(m)}
        self._handles: list[Any] = []
        self._forget()

    def _forget(self) -> None:
        self._largest: dict[str, torch.Tensor] = {}
        self._samples = 0

    def before(self, number: int) -> None:
        if number % self._every == 0:
            self._samples += 1
            self._handles = [
                layer.register_forward_hook(self._keep(name))
                for name, layer in self._layers.items()
            ]

    def _keep(self, name: str):
        @torch.no_grad()
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor) or output.ndim < 2 or not output.numel():
                return
            channel = output.ndim - 1 if output.ndim == 3 else 1  # (N, tokens, C); else (N, C, …)
            others = [d for d in range(output.ndim) if d != channel]
            largest = output.detach().amax(others)
            known = self._largest.get(name)
            # One ReLU can serve layers of several widths.
            same = known is None or known.shape == largest.shape
            key = name if same else f"{name} ({len(largest)} channels)"
            if key in self._largest:
                largest = torch.maximum(largest, self._largest[key])
            self._largest[key] = largest

        return keep

    def look(self, step: Step) -> Noticed | None:
        self.close()
        if step.number % self._period:
            return None
        said = self._judge() if self._samples >= min(DEAD_SAMPLES, self._period) else None
        self._forget()
        return said

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _judge(self) -> Noticed | None:
        shares = {
            name: float((largest <= 0).float().mean())
            for name, largest in self._largest.items()
            if len(largest) >= DEAD_FEWEST
        }
        dying = sorted((n for n in shares if shares[n] >= DEAD_SHARE), key=lambda n: -shares[n])
        if not dying:
            return None
        named = ", ".join(f"{name} {shares[name]:.0%}" for name in dying[:6])
        return Noticed(
            f"Dead units: in {len(dying)} of {len(shares)} layers at least {DEAD_SHARE:.0%} of the"
            f" channels gave nothing but zero over {self._period} steps: {named}. They get no"
            " gradient and stay dead. The likeliest causes: a rate that was too high once"
            " (SOLVER.BASE_LR, SOLVER.WARMUP_ITERS), inputs that are not normalised"
            " (MODEL.PIXEL_MEAN, PIXEL_STD), an initialisation that does not fit."
        )


def is_rectified(module: nn.Module) -> bool:
    """Whether the output of `module` is that of a ReLU, also where Detectron2 calls a function."""
    if isinstance(module, nn.ReLU | nn.ReLU6 | CNNBlockBase):
        return True
    return getattr(module, "activation", None) in (F.relu, F.relu_)


class UpdateRatios(Watcher):
    """Weights that change by too much or by nothing, as the Statistics hook measures it."""

    name = "update ratio"

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}

    def look(self, step: Step) -> Noticed | None:
        names = [n for n in step.latest if n.startswith("update_ratio/")]
        measured = {n.partition("/")[2]: step.scalar(n) for n in names}
        if not measured or None in measured.values() or step.rate <= 0:
            return None
        for group, ratio in measured.items():
            # What the rate's schedule takes away is no fault: the ratio is taken back to the peak.
            kept = self._recent.setdefault(group, deque(maxlen=UPDATES))
            kept.append(ratio if ratio > LARGEST_UPDATE else ratio / step.rate)
        return self._judge()

    def _judge(self) -> Noticed | None:
        full = {g: list(kept) for g, kept in self._recent.items() if len(kept) == UPDATES}
        fast = {g: min(v) for g, v in full.items() if min(v) > LARGEST_UPDATE}
        slow = {g: max(v) for g, v in full.items() if max(v) < LEAST_UPDATE}
        if not fast and not slow:
            return None
        parts = [f"{g} {v:.1e}" for g, v in sorted((fast | slow).items())]
        advice = []
        if fast:
            advice.append(
                f"above {LARGEST_UPDATE:g} the weights are replaced rather than learnt: lower"
                " SOLVER.BASE_LR"
            )
        if slow:
            advice.append(
                f"below {LEAST_UPDATE:g} nothing is learnt: are they in the optimizer, do they get"
                " a gradient (gate gradients), is SOLVER.BASE_LR too low?"
            )
        return Noticed(
            f"Out of range in {UPDATES} measurements in a row is |change in one step| / |weights|"
            f" of {', '.join(parts)}. Healthy is about 1e-3; {'; '.join(advice)}."
        )


class Starvation(Watcher):
    """A loader that is slower than the model."""

    name = "data"

    def __init__(self, period: int) -> None:
        self._period = period
        self._ignore = WAITING_IGNORED  # workers fill up first
        self._waited = self._whole = 0.0

    def look(self, step: Step) -> Noticed | None:
        waited, whole = step.scalar("data_time"), step.scalar("time")
        if self._ignore > 0:
            self._ignore -= 1
        elif waited is not None and whole is not None:
            self._waited += waited
            self._whole += whole
        if step.number % self._period or not self._whole:
            return None
        share = self._waited / self._whole
        self._waited = self._whole = 0.0
        if share < WAITING_SHARE:
            return None
        return Noticed(
            f"The loader is slower than the model: {share:.0%} of the time over the last"
            f" {self._period} steps was spent waiting for images. More DATALOADER.NUM_WORKERS (up"
            " to the number of cores), SERIATIM.CACHE_MIB for decoded images, or images stored at"
            " about the size that they are trained at."
        )


class Gap(Watcher):
    """A validation loss that rises while the training loss falls."""

    name = "gap"

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._points: list[tuple[int, float, float]] = []  # steps, training loss, validation loss
        self._seen = -1

    def look(self, step: Step) -> Noticed | None:
        # The validation hook comes later in a step: what is read here is of the step before.
        value, iteration = step.latest.get("validation/total_loss", (0.0, -1))
        said = None
        if iteration > self._seen:
            self._seen = iteration
            if self._losses:
                self._points.append((iteration + 1, statistics.fmean(self._losses), value))
                said = self._judge()
            self._losses = []
        self._losses.append(step.loss)
        return said

    def _judge(self) -> Noticed | None:
        best = min(self._points, key=lambda point: point[2])
        late = self._points[-GAP_TIMES:]
        after = [p for p in late if p[0] > best[0]]
        steps, train, validation = self._points[-1]
        worse = all(p[2] > (1 + GAP_RISE) * best[2] for p in after)
        if len(after) < GAP_TIMES or not worse or train >= best[1]:
            return None
        return Noticed(
            f"Overfitting: the validation loss was {best[2]:.4g} after {best[0]} steps and is"
            f" {validation:.4g} after {steps}, while the training loss fell from {best[1]:.4g} to"
            f" {train:.4g}. If the metric has stopped rising too, take model_best.pth and end here;"
            " else more augmentation (SERIATIM.AUG), weight decay (SOLVER.WEIGHT_DECAY), an average"
            " of the weights (SERIATIM.SOLVER.EMA_DECAY), or more data."
        )


class ImageLosses(Watcher):
    """Images whose loss stays high: the likeliest to be labelled wrongly.

    A model gives the loss of a whole batch. Each image's own share is found from the batches that
    it was in, by Kaczmarz's projections with a damped step (normalised least mean squares): the
    mean of the images' estimates is drawn towards the batch's loss, relative to the median of the
    last steps. Labels that are wrong are learnt last (Arpit 2017, arXiv 1706.05394), so that the
    loss of their images stays high (O2U-Net, Huang 2019).
    """

    name = "labels"
    DAMPING = 0.5

    def __init__(self, period: int) -> None:
        self._period = period
        self._recent: deque[float] = deque(maxlen=SPIKE_STEPS)
        self._images: dict[str, list[float]] = {}  # file name → [relative loss, visits]

    def look(self, step: Step) -> Noticed | None:
        self._recent.extend(loss for _, loss in step.batches)
        if len(self._recent) >= min(SPIKE_STEPS, self._period) // 2:  # the first steps fall fast
            usual = max(statistics.median(self._recent), 1e-12)
            for batch, loss in step.batches:
                self._learn(batch, loss / usual)
        if step.number % self._period and not step.last:
            return None
        return self._judge(NOISE_VISITS_AT_END if step.last else NOISE_VISITS)

    def _learn(self, batch: list[dict[str, Any]], relative: float) -> None:
        names = [str(item["file_name"]) for item in batch if "file_name" in item]
        if not names:
            return
        own = [self._images.setdefault(name, [1.0, 0]) for name in names]
        error = min(relative, 10.0) - statistics.fmean(estimate for estimate, _ in own)
        for image in own:
            image[0] += self.DAMPING * error
            image[1] += 1

    def _judge(self, visits: int) -> Noticed | None:
        if len(self._images) < 2 * NOISE_IMAGES:
            return None
        values = np.array(list(self._images.values()))
        if np.median(values[:, 1]) < visits:
            return None
        middle, spread = middle_and_spread(values[:, 0])
        limit = max(middle + NOISE_SPREADS * spread, NOISE_FACTOR * middle)
        names = [n for n, (loss, seen) in self._images.items() if loss > limit and seen >= visits]
        names.sort(key=lambda name: -self._images[name][0])
        if not names:
            return None
        return Noticed(
            f"{len(names)} of {len(self._images)} images keep a loss of more than {limit:.2g} times"
            f" the usual one, {names[0]} with {self._images[names[0]][0]:.2g} first. Their labels"
            " may be wrong or lack objects, or they are unlike the others: look at them.",
            [(n, f"{self._images[n][0]:.2g} × the usual loss") for n in names[:NOISE_IMAGES]],
        )

    def state_dict(self) -> dict[str, Any]:
        values = torch.tensor(list(self._images.values()), dtype=torch.float64)
        return {"recent": list(self._recent), "names": list(self._images), "values": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._recent.extend(state["recent"])
        values = state["values"].tolist()
        self._images = dict(zip(state["names"], values, strict=True))


def middle_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Median, and the deviation that it has for normal values (1.4826 × median |x - median|)."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))
