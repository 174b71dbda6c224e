"""Does every trainable parameter learn, and does what is frozen stay?"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.solver import LRMultiplier
from torch import nn

from dataset_tools.errors import InputError
from seriatim.checkpoint import group_names
from seriatim.engine.trainer import Trainer
from seriatim.gates.base import Gate
from seriatim.gates.context import Batch, Context
from seriatim.gates.init import zero_weights
from seriatim.gates.observe import some_records
from seriatim.gates.steps import gradient_norms, small_trainer, take_steps
from seriatim.gates.verdict import Cause, Finding

STEPS = 3  # residual branches start as 0: their inner layers get a gradient from the second step on
SHORT_EDGE = 192  # px; gradients flow, or do not, at any size
# Median over the weights of |step at the peak rate| / |weight|. Karpathy's rule of thumb is 1e-3;
# healthy: 1e-5 (SGD, fresh detectors) to 5e-2 (AdamW, whose first steps are the rate itself).
LEAST_UPDATE, LARGEST_UPDATE = 1e-6, 3e-1
# The same batch and weights give the same gradient, but for running normalisers (one step of
# RetinaNet's moves by 10 %) and rounding; a gradient that is added up or not averaged doubles.
SAME_GRADIENT = 1.5
# Steps after which weight decay alone has shrunk weights to 1/e: 1 / (rate × decay). In use:
# 20,000 (AdamW at 1e-3 and 0.05) to a million (SGD at 0.01 and 1e-4).
SHORTEST_MEMORY = 300
# Of the peak rate: the mean over a run. Cosine has 0.5, steps at 2/3 and 8/9 of it 0.7.
LEAST_MEAN_RATE = 0.05
MOMENTS = 20_000  # at which a schedule is looked at
LEAST_PEAK = 0.5  # of the configured rate, that the schedule must reach
LONGEST_WARM_UP = 0.6  # of a run; one-cycle schedules rise for up to half of it
LEAST_RUN = 100  # steps; a shorter run is a trial, whose schedule is of no account
LARGEST_MOMENTUM = 0.5  # of BatchNorm: 0.1 is usual, TensorFlow writes it as 0.9
# |average - start| / |weights - start| of a moving average lies between 0 and 1.
FARTHEST_AVERAGE = 2.0
# Of a backbone's tensors, those that a file of weights must fill to count as loaded.
LOADED = 0.5
SHOWN = 3  # names in a message


class GradientsGate(Gate):
    name = "gradients"
    question = "does every trainable parameter learn?"
    keys = ("MODEL", "DATASETS", "SERIATIM.DATASETS", "SERIATIM.SOLVER", "SOLVER", "INPUT")
    packages = ("seriatim.modeling", "seriatim.engine", "seriatim.data", "seriatim.checkpoint")

    def examine(self, context: Context, folder: Path) -> str:
        trainer = small_trainer(context)
        model = trainer.bare_model
        batches = _batches(context)
        self._check_membership(model, trainer.optimizer)
        self._check_pretrained(context, trainer)
        self._check_decay(trainer.optimizer)
        self._check_schedule(context, trainer)
        before = {name: t.detach().clone() for name, t in model.state_dict().items()}
        rate = _rate_to_peak(trainer.optimizer)
        norms = self._steps(trainer, batches)
        if norms is None:
            return ""
        self._check_flow(context, model, norms, batches[0])
        self._check_frozen(model, before)
        self._check_statistics(context, model, before)
        if not self.findings:
            self._check_update(model, before, rate)
            self._check_average(trainer, before)
            self._check_repetition(trainer, batches[0])
        draw_flow(norms, folder / "gradients.png")
        self.evidence.append("gradients.png")
        told = f"{self.numbers.get('update at the peak rate', math.nan):.1e}"
        return f"all {len(norms)} trainable tensors learn; the peak rate moves weights by {told}"

    def _say(self, measured: str, expected: str, causes: list[Cause], fails: bool = True) -> None:
        self.findings.append(Finding(measured, expected, causes, fails))

    # Before any step

    def _check_membership(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        times = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        missing = [name for name, p in trainable.items() if not times[id(p)]]
        twice = [name for name, p in trainable.items() if times[id(p)] > 1]
        idle = [
            name
            for name, p in trainable.items()
            for group in optimizer.param_groups
            if group.get("initial_lr", group["lr"]) == 0 and any(p is q for q in group["params"])
        ]
        if missing:
            whole = len(missing) == len(trainable)
            rebuilt = Cause("the optimizer was built for another copy of the model")
            left_out = Cause("the optimizer leaves them out", "build_optimizer")
            self._say(
                f"{_names(missing, trainable)} are trainable but not in the optimizer.",
                "every trainable parameter is in it, once.",
                [rebuilt, left_out]
                if whole
                else [
                    left_out,
                    Cause("they were made, or unfrozen, after the optimizer was built"),
                ],
            )
        if twice:
            self._say(
                f"{_names(twice, trainable)} are in the optimizer twice.",
                "every trainable parameter is in it, once: it would take two steps at a time.",
                [
                    Cause("two parameter groups overlap", "build_optimizer"),
                    Cause("a module that is shared was counted under both of its names"),
                ],
            )
        if idle:
            self._say(
                f"the learning rate of {_names(idle, trainable)} is 0.",
                "a rate above 0 for what is trainable; what is not has requires_grad False.",
                [
                    Cause(
                        "a multiplier of the learning rate is 0",
                        "SERIATIM.SOLVER.BACKBONE_MULTIPLIER, SOLVER.BIAS_LR_FACTOR",
                    ),
                    Cause("the optimizer's groups set it", "build_optimizer"),
                ],
            )

    def _check_pretrained(self, context: Context, trainer: Trainer) -> None:
        """Weights that were loaded do not depend on the seed; random ones do."""
        cfg = context.cfg
        backbone = getattr(trainer.bare_model, "backbone", None)
        source = cfg.MODEL.WEIGHTS or cfg.MODEL.TIMM.WEIGHTS
        if backbone is None or not source:
            return
        key = "MODEL.WEIGHTS" if cfg.MODEL.WEIGHTS else "MODEL.TIMM.WEIGHTS"
        if key == "MODEL.TIMM.WEIGHTS" and "timm" not in cfg.MODEL.BACKBONE.NAME.lower():
            return
        torch.manual_seed(context.SEED + 1)
        other = context.trainer_class.build_model(cfg).backbone
        if key == "MODEL.TIMM.WEIGHTS":  # of the timm model alone, not of the neck on it
            inner = getattr(backbone, "bottom_up", backbone)
            other = getattr(other, "bottom_up", other)
            same = _shared(inner, other)
        else:
            same = 1 - _shared(backbone, other)
        self.numbers["share of the backbone that was loaded"] = same
        if same >= LOADED:
            return
        report = getattr(trainer.checkpointer, "report", None)
        self._say(
            f"{same:.0%} of the backbone's weights are those of {source}, the others are random.",
            f"at least {LOADED:.0%} of them: {key} is set.",
            [
                Cause(
                    "names or shapes in the file are others, and it was loaded without strictness",
                    key,
                )
                if report is None or not report.complete
                else Cause("the weights are overwritten by an initialisation after loading"),
                Cause("the code that builds the model does not load them, or overwrites them"),
            ],
        )

    def _check_decay(self, optimizer: torch.optim.Optimizer) -> None:
        fastest = max(
            group.get("initial_lr", group["lr"]) * group.get("weight_decay", 0.0)
            for group in optimizer.param_groups
        )
        if fastest * SHORTEST_MEMORY > 1:
            self._say(
                f"weight decay alone shrinks weights to a third within {1 / fastest:.0f} steps.",
                f"more than {SHORTEST_MEMORY} steps.",
                [
                    Cause("weight decay is too strong", "SOLVER.WEIGHT_DECAY"),
                    Cause("the learning rate is too high", "SOLVER.BASE_LR"),
                ],
            )

    def _check_schedule(self, context: Context, trainer: Trainer) -> None:
        """The learning rate over the whole run, as a part of the configured one."""
        steps = context.cfg.SOLVER.MAX_ITER
        shares = rates_of(trainer.scheduler, steps)
        if not shares:
            return
        peak, mean = max(shares), sum(shares) / len(shares)
        warm = next(i for i, share in enumerate(shares) if share > 0.9 * peak) / len(shares)
        self.numbers["peak and mean of the schedule"] = [peak, mean]
        if warm > LONGEST_WARM_UP or peak < LEAST_PEAK:
            self._say(
                f"of {steps} steps the learning rate takes {warm:.0%} to rise to its peak,"
                f" {peak:.2g} of the configured one.",
                f"at most {LONGEST_WARM_UP:.0%}, and all of it.",
                [
                    Cause("the warm-up takes longer than the training", "SOLVER.WARMUP_ITERS"),
                    Cause("MAX_ITER was lowered, and the schedule was not", "SOLVER.MAX_ITER"),
                ],
                fails=steps >= LEAST_RUN,
            )
        elif mean < LEAST_MEAN_RATE:
            self._say(
                f"over {steps} steps the learning rate is {mean:.2g} of its peak on average.",
                f"at least {LEAST_MEAN_RATE:g}: cosine has 0.5.",
                [
                    Cause("steps of the schedule are in epochs, not in iterations", "SOLVER.STEPS"),
                    Cause("the rate falls too early or too far", "SOLVER.GAMMA"),
                ],
            )

    # Steps

    def _steps(self, trainer: Trainer, batches: list[Batch]) -> dict[str, list[float]] | None:
        """Of every trainable parameter the norms of its gradient in each step; NaN for none."""
        found: dict[str, list[float]] = {
            name: [] for name, p in trainer.bare_model.named_parameters() if p.requires_grad
        }
        for batch in batches:
            start = None if any(found.values()) else _copies(trainer.bare_model)
            with gradient_norms(trainer.bare_model) as norms:
                try:
                    take_steps(trainer, [batch])
                except (InputError, FloatingPointError) as error:
                    self._say_not_finite(str(error), norms)
                    return None
            if start is not None:
                self._check_descent(trainer.bare_model, start)
            for name, values in found.items():
                values.append(norms.get(name, math.nan))
            bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
            if bad:
                self._say_not_finite("", {name: norms[name] for name in bad})
                return None
        return found

    def _check_descent(self, model: nn.Module, start: dict[str, torch.Tensor]) -> None:
        """The very first step of any optimizer goes against the gradient."""
        along = sum(
            float((p.detach() - start[name]).double().flatten() @ p.grad.double().flatten())
            for name, p in model.named_parameters()
            if p.requires_grad and p.grad is not None
        )
        if along > 0:
            self._say(
                "the first step goes along the gradient, not against it.",
                "a step that lowers the loss.",
                [
                    Cause("the optimizer climbs: it maximises, or its rate is negative"),
                    Cause("weight decay outweighs the gradient", "SOLVER.WEIGHT_DECAY"),
                ],
            )

    def _say_not_finite(self, message: str, norms: dict[str, float]) -> None:
        bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
        where = f"the gradient of {_names(bad, bad)}" if bad else "the loss"
        self._say(
            f"{where} is not finite within {STEPS} steps. {message.partition('. ')[0]}.",
            "finite losses and gradients.",
            [
                Cause(
                    "a square root, logarithm or division at 0, whose gradient is infinite", bad[-1]
                )
                if bad
                else Cause("a logarithm or a division by 0 in the loss"),
                Cause("a learning rate that is too high", "SOLVER.BASE_LR, SOLVER.WARMUP_ITERS"),
                Cause("numbers too large for the precision", "SERIATIM.SOLVER.PRECISION"),
            ],
        )

    def _check_flow(
        self, context: Context, model: nn.Module, norms: dict[str, list[float]], batch: Batch
    ) -> None:
        excused = _excused(model)
        none = [n for n, v in norms.items() if all(math.isnan(x) for x in v) and not excused(n)]
        zero = [
            name
            for name, values in norms.items()
            if name not in none and not any(x > 0 for x in values) and not excused(name)
        ]
        # A bias whose weight learns stands before a norm, and a single number belongs to a level or
        # class that these images do not show.
        learning = {name for name, values in norms.items() if any(x > 0 for x in values)}
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        zero = [
            name
            for name in zero
            if sizes[name] > 1
            and not (name.endswith("bias") and name[: -len("bias")] + "weight" in learning)
        ]
        if none:
            self._say_detached(context, model, none, norms, batch)
        if zero:
            self._say(
                f"the gradient of {_names(zero, norms)} is exactly 0 in {STEPS} steps.",
                "a gradient that is not 0.",
                [
                    *zero_weights(context.cfg),
                    Cause("their output is multiplied by 0 or cut off: dead ReLU, clamp, mask"),
                    Cause("the loss that they serve finds nothing: no object is assigned"),
                ],
            )

    def _say_detached(
        self,
        context: Context,
        model: nn.Module,
        names: list[str],
        norms: dict[str, list[float]],
        batch: Batch,
    ) -> None:
        called = _called(context, model, batch)
        owners = {name: name.rpartition(".")[0] for name in names}
        unused = [name for name in names if owners[name] not in called]
        cut = [name for name in names if owners[name] in called]
        if unused:
            # Levels that no head reads are a waste, and no fault of the training.
            waste = all(".fpn_" in f".{n}" or ".top_block" in n for n in unused)
            self._say(
                f"{_names(unused, norms)} get no gradient: their modules are never called.",
                "every trainable parameter takes part.",
                [
                    Cause("a level of the neck that no head reads", "…IN_FEATURES")
                    if waste
                    else Cause("a module that is built but not used in forward"),
                    Cause("a branch of the model that this config does not take"),
                ],
                fails=not waste,
            )
        if cut:
            self._say(
                f"{_names(cut, norms)} get no gradient, although their modules are called.",
                "every trainable parameter gets one.",
                [
                    Cause(
                        "their output is detached: .detach(), .data, no_grad, argmax or NumPy",
                        cut[-1],
                    ),
                    Cause("the loss that they serve is not in the loss dict, or is a plain number"),
                    Cause("the backward pass starts from only some of the losses"),
                ],
            )

    def _check_frozen(self, model: nn.Module, before: dict[str, torch.Tensor]) -> None:
        now = model.state_dict()
        parameters = dict(model.named_parameters())
        frozen = [
            name
            for name, p in parameters.items()
            if not p.requires_grad and not torch.equal(now[name], before[name])
        ]
        if frozen:
            self._say(
                f"{_names(frozen, parameters)} are frozen, and moved within {STEPS} steps.",
                "what has requires_grad False stays.",
                [
                    Cause(
                        "weight decay or momentum of the optimizer moves them", "build_optimizer"
                    ),
                    Cause("a hook, or the model itself, writes to them"),
                ],
            )
        statistics = []
        for name, module in model.named_modules():
            weights = list(module.parameters(recurse=False))
            if not isinstance(module, nn.modules.batchnorm._BatchNorm) or not weights:
                continue
            mean = f"{name}.running_mean"
            still = any(p.requires_grad for p in weights) or mean not in now
            if not still and not torch.equal(now[mean], before[mean]):
                statistics.append(mean)
        if statistics:
            self._say(
                f"the statistics of {len(statistics)} frozen BatchNorms move ({statistics[0]}).",
                "a frozen layer is frozen with its statistics.",
                [
                    Cause(
                        "requires_grad is False, but BatchNorm is still in training mode and"
                        " follows every batch",
                        "MODEL.BACKBONE.FREEZE_AT, MODEL.TIMM.FREEZE_AT, MODEL.TIMM.NORM FrozenBN",
                    ),
                    Cause("train() of the whole model undoes eval() of the frozen part"),
                ],
            )
        trainable = [name for name, p in parameters.items() if p.requires_grad]
        moved = [name for name in trainable if not torch.equal(now[name], before[name])]
        if trainable and not moved:
            self._say(
                f"no weight has changed after {STEPS} steps.",
                "a step of the optimizer changes weights.",
                [
                    Cause("the optimizer's step is not taken, or its rate is 0", "SOLVER.BASE_LR"),
                    Cause("gradients are cleared after the backward pass, before the step"),
                    Cause("the optimizer holds another copy of the model"),
                ],
            )

    def _check_statistics(
        self, context: Context, model: nn.Module, before: dict[str, torch.Tensor]
    ) -> None:
        """BatchNorms that learn must gather statistics, and over more than one batch."""
        now = model.state_dict()
        idle, hasty = [], []
        for name, module in model.named_modules():
            mean, var = f"{name}.running_mean", f"{name}.running_var"
            if not isinstance(module, nn.modules.batchnorm._BatchNorm) or mean not in now:
                continue
            if not any(p.requires_grad for p in module.parameters(recurse=False)):
                continue
            still = torch.equal(now[mean], before[mean]) and torch.equal(now[var], before[var])
            if still and not now[mean].any() and bool((now[var] == 1).all()):
                idle.append(name)
            if module.momentum is not None and module.momentum > LARGEST_MOMENTUM:
                hasty.append(name)
        if idle:
            self._say(
                f"after {STEPS} steps {len(idle)} BatchNorms ({idle[0]}) still have the mean 0 and"
                " the variance 1 that they were made with.",
                "statistics of the data: evaluation normalises with them.",
                [
                    Cause(
                        "statistics stand still: the momentum is 0, or train() leaves BatchNorm in"
                        " evaluation mode",
                        idle[0],
                    ),
                    Cause("BatchNorm is frozen although no weights are loaded"),
                ],
            )
        if hasty:
            self._say(
                f"{len(hasty)} BatchNorms ({hasty[0]}) have a momentum of"
                f" {model.get_submodule(hasty[0]).momentum:g}: their statistics are those of the"
                " last batch.",
                f"at most {LARGEST_MOMENTUM:g}; 0.1 is usual.",
                [
                    Cause("a momentum in TensorFlow's sense: its 0.99 is 0.01 in torch", hasty[0]),
                    Cause("a momentum that was set for a test"),
                ],
            )

    # After the steps

    def _check_update(self, model: nn.Module, before: dict[str, torch.Tensor], rate: float) -> None:
        """What a step at the peak rate would do to weights, from those that were taken."""
        ratios = []
        for name, p in model.named_parameters():
            size = float(before[name].norm())
            if p.requires_grad and p.ndim > 1 and size > 0:
                ratios.append(float((p.detach() - before[name]).norm()) / size / STEPS * rate)
        if not ratios:
            return
        update = sorted(ratios)[len(ratios) // 2]
        self.numbers["update at the peak rate"] = update
        if LEAST_UPDATE <= update <= LARGEST_UPDATE:
            return
        high = update > LARGEST_UPDATE
        self._say(
            f"the median step at the peak learning rate is {update:.1e} of the weights.",
            f"{LEAST_UPDATE:g} to {LARGEST_UPDATE:g}; about 1e-3 is usual.",
            [
                Cause(f"the learning rate is too {'high' if high else 'low'}", "SOLVER.BASE_LR"),
                Cause("the loss is summed instead of averaged")
                if high
                else Cause("gradients are clipped to almost nothing", "SOLVER.CLIP_GRADIENTS"),
                Cause("weight decay is too strong", "SOLVER.WEIGHT_DECAY"),
            ],
        )

    def _check_average(self, trainer: Trainer, before: dict[str, torch.Tensor]) -> None:
        """The moving average lies between where the weights started and where they are."""
        if trainer.average is None:
            return
        averaged = dict(trainer.average.model.named_parameters())
        way, live = 0.0, 0.0
        for name, p in trainer.bare_model.named_parameters():
            if p.requires_grad and name in averaged:
                way += float((averaged[name].detach() - before[name]).square().sum())
                live += float((p.detach() - before[name]).square().sum())
        share = math.sqrt(way / live) if live else 0.0
        self.numbers["way of the average"] = share
        if 0 < share <= FARTHEST_AVERAGE:
            return
        still = share == 0
        self._say(
            f"after {STEPS} steps the moving average is {share:.2g} times as far from the start as"
            " the weights are.",
            "more than 0 and at most 1: it follows them.",
            [
                Cause("the average is never updated: its hook is missing", "build_hooks")
                if still
                else Cause("the average starts from other weights than the model"),
                Cause("the average is of another copy of the model")
                if still
                else Cause("weights are loaded into the model alone, after the average was made"),
            ],
        )

    def _check_repetition(self, trainer: Trainer, batch: Batch) -> None:
        """At a learning rate of 0 the same batch gives the same gradient, and that of its loss."""
        if trainer._trainer.grad_scaler.is_enabled():
            return  # what the hooks would see is scaled
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.0
        model = trainer.bare_model
        _forget_gradients(model)
        sizes = []
        for _ in range(2):
            with gradient_norms(model) as norms:
                take_steps(trainer, [batch], seed=Context.SEED)
            sizes.append(_total(norms))
        _forget_gradients(model)
        with gradient_norms(model) as norms:
            take_alone(trainer, batch)
        single = _total(norms)
        _forget_gradients(model)
        self.numbers["gradient of a batch, again, and of its loss alone"] = [*sizes, single]
        if sizes[1] > SAME_GRADIENT * sizes[0]:
            self._say(
                f"the gradient of the same batch is {sizes[0]:.4g}, and {sizes[1]:.4g} in the next"
                " step, with the same weights.",
                "the same gradient.",
                [
                    Cause("gradients are not set to zero between steps", "run_step: zero_grad"),
                    Cause("the loss grows with the number of calls: it keeps earlier ones"),
                ],
            )
            return
        ratio = sizes[0] / single if single else 1.0
        if not 1 / SAME_GRADIENT < ratio < SAME_GRADIENT:
            times = trainer._trainer.accumulate
            summed = Cause(
                f"gradients of {times} micro-batches are summed, not averaged",
                "SERIATIM.SOLVER.ACCUMULATE",
            )
            scaled = Cause("the step scales the losses before the backward pass", "run_step")
            likely = times > 1 and 1 / SAME_GRADIENT < ratio / times < SAME_GRADIENT
            one = times > 1 and 1 / SAME_GRADIENT < ratio * times < SAME_GRADIENT
            last = Cause(f"gradients of one of {times} micro-batches count: zero_grad between them")
            self._say(
                f"the gradient that a step uses is {ratio:.3g} times that of its loss.",
                "the gradient of the mean loss of its images.",
                [last, scaled] if one else [summed, scaled] if likely else [scaled, summed],
            )


def take_alone(trainer: Trainer, batch: Batch) -> None:
    """The gradient of the batch's losses, without the trainer's step."""
    from detectron2.utils.events import EventStorage

    with EventStorage():
        torch.manual_seed(Context.SEED)
        sum(trainer.compute_losses(trainer.bare_model, batch).values()).backward()


def rates_of(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """The learning rate at up to MOMENTS of `steps` steps, as parts of the configured one.

    For schedules that are a function of the step, as Detectron2's are; [] for others.
    """
    if not isinstance(scheduler, LRMultiplier) or not any(scheduler.base_lrs):
        return []
    now, base = scheduler.last_epoch, max(scheduler.base_lrs)
    try:
        found = []
        for moment in range(min(steps, MOMENTS)):
            scheduler.last_epoch = moment * steps // min(steps, MOMENTS)
            found.append(max(scheduler.get_lr()) / base)
        return found
    finally:
        scheduler.last_epoch = now


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


def _shared(one: nn.Module, other: nn.Module) -> float:
    """Share of the weights of two builds of a model that are equal."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    same = [(p.numel(), bool(torch.equal(p, q.to(p)))) for p, q in pairs if p.ndim > 1]
    return sum(n for n, equal in same if equal) / max(1, sum(n for n, _ in same))


def _excused(model: nn.Module):
    """Whether the model itself says that a parameter may get no gradient."""
    told = getattr(model, "parameters_without_gradient", None)
    patterns = list(told()) if told is not None else []
    return lambda name: any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _called(context: Context, model: nn.Module, batch: Batch) -> set[str]:
    """Names of the modules that take part in a training forward pass."""
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda m, inputs, name=name: called.add(name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            context.losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return called


def _forget_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _total(norms: dict[str, float]) -> float:
    return math.sqrt(sum(norm * norm for norm in norms.values()))


def _names(names: Sequence[str], universe: Sequence[str] | dict) -> str:
    groups = group_names(list(names), list(universe))
    more = f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    return ", ".join(groups[:SHOWN]) + more


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
    axes.set_xlabel("parameters in the model's order")
    axes.set_ylabel("norm of the gradient")
    axes.legend()
    figure.savefig(path, dpi=110)
