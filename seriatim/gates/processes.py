"""Would several processes train and evaluate as one does?

Two processes on this machine's CPU, which talk through gloo, do in a few steps what a distributed
run does for days: they read their share of the data, average gradients, gather detections. What
each saw is held against the other and against one process alone. Two that are given the *same*
images must do exactly what one does with them, whatever is averaged over processes in between.
"""

from __future__ import annotations

import copy
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from detectron2.structures import Boxes, Instances
from torch import nn

from seriatim.engine.launch import create_local_group
from seriatim.engine.state import seed_everything
from seriatim.gates.context import Batch, Context, objects_of
from seriatim.gates.naming import some_of
from seriatim.gates.quiet import quiet
from seriatim.gates.steps import small_trainer, take_steps
from seriatim.gates.truth import Oracle
from seriatim.gates.verdict import Cause, Finding

PROCESSES = 2  # what two do wrong, more do too
TIMEOUT = 120  # s; a process that waits longer waits for ever
IMAGES, REPEATS, TESTED = 16, 8, 7  # an odd number of test images cannot be shared evenly
# Sums in another order differ in the last digits of float32.
SAME_GRADIENT = 1e-3
# Shares of one shuffled order do not overlap; those of two orders have a quarter in common.
LEAST_DISTINCT = 0.9
SAME_SCORE = 0.05  # AP


# A tensor in two numbers: its product with fixed random ones, and its norm.
Print = tuple[float, float]


@dataclass
class Seen:
    """What a process saw and did.

    Attributes:
        batches: of one pass, the files of each batch.
        drawn: checksums of one image that was mapped again and again.
        start: of each parameter, two numbers that stand for it, before the first step.
        same: of each parameter's gradient, in the step on the images that all processes see.
        own: likewise, in the step on images of its own.
        scores: metrics of the evaluation; answered: how many test images it was asked for.
    """

    batches: list[list[str]] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)
    start: dict[str, Print] = field(default_factory=dict)
    same: dict[str, Print] = field(default_factory=dict)
    own: dict[str, Print] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    answered: int = 0


def findings(context: Context) -> list[Finding]:
    """What is not as it should be when two processes run the pipeline."""
    plan = Plan(context)
    alone = plan.look(0)
    together = in_processes(PROCESSES, plan.look)
    if isinstance(together, str):
        return [_broke(together)]
    return [
        *_of_batches(alone, together),
        *_of_draws(together),
        *_of_steps(alone, together),
        *_of_scores(alone, together, plan.tested),
    ]


# The processes


def in_processes(count: int, work: Callable[[int], Any]) -> list[Any] | str:
    """What `work(rank)` gives in each of `count` forked processes of one group; or why not."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/store"
        pairs = [fork.Pipe(duplex=False) for _ in range(count)]
        processes = [
            fork.Process(target=_run, args=(rank, count, meeting, work, sender), daemon=True)
            for rank, (_, sender) in enumerate(pairs)
        ]
        for process in processes:
            process.start()
        for _, sender in pairs:
            sender.close()
        try:
            answers = [_answer(receiver) for receiver, _ in pairs]
        finally:
            for process in processes:
                process.kill()
                process.join()
    return next((a for a in answers if isinstance(a, str)), answers)


def _answer(receiver: Connection) -> Any:
    if not receiver.poll(TIMEOUT):
        return f"a process waits for another for more than {TIMEOUT} s"
    try:
        return receiver.recv()
    except EOFError:
        return "a process died"


def _run(
    rank: int, count: int, meeting: str, work: Callable[[int], Any], sender: Connection
) -> None:
    torch.set_num_threads(1)  # threads of the parent's pool do not live in a fork
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=count, timeout=timedelta(seconds=TIMEOUT)
    )
    create_local_group(count)
    try:
        sender.send(work(rank))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


@dataclass
class Plan:
    """What every process does. Data are mapped beforehand: the processes get the same."""

    context: Context

    def __post_init__(self) -> None:
        context = self.context
        records = context.covering(context.train_records, 2 * PROCESSES)
        self._inputs = [context.inputs(records[i::PROCESSES]) for i in range(PROCESSES)]
        self._total = max(context.cfg.SOLVER.IMS_PER_BATCH, PROCESSES)
        like = context.cfg.DATASETS.TRAIN[0]
        count = max(IMAGES, 2 * self._total)
        self._pool = context.train_records[:count]
        self._few = context.dataset_of(self._pool, like, "few")
        self._one = context.dataset_of([records[0]] * REPEATS, like, "one")
        self.tested = [r for r in context.test_records if objects_of(r)][:TESTED]
        if self.tested and len(self.tested) % PROCESSES == 0:
            self.tested.pop()
        if self.tested:
            test = context.cfg.DATASETS.TEST[0]
            self._answers = _imperfect(Oracle(context, test, self.tested).perfect)
            self._test = context.dataset_of(self.tested, test, "together")

    def look(self, rank: int) -> Seen:
        """What the process of `rank` sees; without a process group, what one alone does."""
        seen = Seen()
        seed_everything(Context.SEED + rank)  # as `setup` seeds processes
        with quiet():
            self._read(seen)
            self._step(seen, rank)
            if self.tested:
                self._evaluate(seen)
        return seen

    def _read(self, seen: Seen) -> None:
        times = max(1, len(self._pool) // self._total)
        seen.batches = [
            [str(image["file_name"]) for image in batch]
            for batch in self._loaded(self._few, self._total, times)
        ]
        drawn = self._loaded(self._one, PROCESSES, REPEATS // PROCESSES)
        seen.drawn = [float(image["image"].double().std()) for batch in drawn for image in batch]

    def _loaded(self, dataset: str, total: int, count: int) -> list[Batch]:
        cfg = self.context.variant(
            "DATASETS.TRAIN", (dataset,), "SOLVER.IMS_PER_BATCH", total,
            "SERIATIM.DATASET_WEIGHTS", (), "DATALOADER.SAMPLER_TRAIN", "TrainingSampler",
        )  # fmt: skip
        return self.context.batches(count, cfg)

    def _step(self, seen: Seen, rank: int) -> None:
        trainer = small_trainer(
            self.context, "MODEL.DEVICE", "cpu", "SOLVER.CLIP_GRADIENTS.ENABLED", False
        )
        model = trainer.bare_model
        seen.start = _prints(model, lambda parameter: parameter)
        for place, images in (("same", self._inputs[0]), ("own", self._inputs[rank])):
            look = trainer.optimizer.register_step_pre_hook(
                lambda *_, place=place: setattr(
                    seen, place, _prints(model, lambda parameter: parameter.grad)
                )
            )
            take_steps(trainer, [images], seed=Context.SEED)
            look.remove()

    def _evaluate(self, seen: Seen) -> None:
        cfg = self.context.variant(
            "DATASETS.TEST", (self._test,), "SERIATIM.EVAL.TILE", 0, "TEST.AUG.ENABLED", False,
            "DATALOADER.NUM_WORKERS", 0,
        )  # fmt: skip
        names = [record["image_id"] for record in self.tested]
        model = _Answers(dict(zip(names, self._answers, strict=True)))
        results = self.context.trainer_class.test(cfg, model) or {}
        seen.answered = model.asked
        seen.scores = {
            f"{task} {name}": float(value)
            for task, values in results.items()
            if isinstance(values, dict)
            for name, value in values.items()
            if name in ("AP", "AP50")
        }


def _prints(
    model: nn.Module, value: Callable[[nn.Parameter], torch.Tensor | None]
) -> dict[str, Print]:
    """Name of a parameter → the print of its `value`; without those that have none."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, parameter in model.named_parameters():
        numbers = torch.randn(parameter.shape, generator=generator)
        tensor = value(parameter)
        if tensor is not None:
            tensor = tensor.detach().cpu().double()
            found[name] = float((tensor * numbers).sum()), float(tensor.norm())
    return found


class _Answers(nn.Module):
    """Gives prepared detections, and counts for how many images it was asked."""

    def __init__(self, answers: dict[Any, Instances]) -> None:
        super().__init__()
        self._answers = answers
        self.asked = 0

    def forward(self, batch: Batch) -> list[dict[str, Instances]]:
        self.asked += len(batch)
        return [{"instances": copy.deepcopy(self._answers[i["image_id"]])} for i in batch]


def _imperfect(perfect: Sequence[Instances]) -> list[Instances]:
    """Perfect detections with scattered scores and boxes: the score of all images is then not the
    mean of the scores of some."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for instances in perfect:
        worse = Instances(instances.image_size, **instances.get_fields())
        worse.scores = torch.rand(len(worse), generator=generator)
        if isinstance(instances.pred_boxes, Boxes):
            boxes = instances.pred_boxes.tensor
            sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            scatter = 0.1 * torch.randn(boxes.shape, generator=generator)
            worse.pred_boxes = Boxes(boxes + scatter * sides)
        found.append(worse)
    return found


# What it means


def _broke(why: str) -> Finding:
    return Finding(
        f"two processes could not be looked at: {why}.",
        "each does its part and ends.",
        [
            Cause("not all processes call what needs all of them (a gather, a barrier)"),
            Cause("a part of the pipeline runs on GPUs alone"),
        ],
        fails="waits for another" in why,
    )


def _of_batches(alone: Seen, together: list[Seen]) -> list[Finding]:
    sizes = [sum(len(batch) for batch in seen.batches) for seen in together]
    whole = sum(len(batch) for batch in alone.batches)
    if sum(sizes) > 1.5 * whole:
        cause = Cause(
            "IMS_PER_BATCH is taken for the batch size of a process", "build_train_loader"
        )
        more = Cause("the learning rate is meant for IMS_PER_BATCH images a step", "SOLVER.BASE_LR")
        return [
            Finding(
                f"{len(together)} processes read {sum(sizes)} images in as many steps as one reads"
                f" {whole}.",
                "as many: SOLVER.IMS_PER_BATCH is the batch of all processes.",
                [cause, more],
            )
        ]
    first, second = ([name for batch in seen.batches for name in batch] for seen in together[:2])
    distinct, expected = len({*first, *second}), len({n for b in alone.batches for n in b})
    if first == second and expected > 1:
        return [
            Finding(
                "both processes get the same images in the same order.",
                "each its own share.",
                [
                    Cause("the sampler does not know the rank of its process: same images for all"),
                    Cause("each process draws at random, from the same seed", "build_train_loader"),
                ],
            )
        ]
    if distinct < LEAST_DISTINCT * expected:
        return [
            Finding(
                f"in one pass two processes see {distinct} different images, one alone sees"
                f" {expected}.",
                "the shares of one order do not overlap.",
                [
                    Cause("each process shuffles with a seed of its own", "build_train_loader"),
                    Cause("the share of a process does not follow from its rank"),
                ],
            )
        ]
    return []


def _of_draws(together: list[Seen]) -> list[Finding]:
    first, second = (seen.drawn for seen in together[:2])
    if first != second or len(set(first)) == 1:
        return []
    return [
        Finding(
            f"both processes augment one image {len(first)} times in the same way.",
            "draws that differ from process to process.",
            [
                Cause("augmentations are seeded without the rank, alike in all processes"),
                Cause("the mapper counts its calls, or seeds itself", "build_mapper"),
            ],
        )
    ]


def _of_steps(alone: Seen, together: list[Seen]) -> list[Finding]:
    first, second = together[:2]
    if apart := _apart(first.start, second.start):
        return [
            Finding(
                f"the processes start from other weights: {some_of(apart, first.start)}.",
                "the same weights in all.",
                [
                    Cause("weights are initialised or loaded after the model was wrapped"),
                    Cause("the wrapper is not told of these parameters, or is missing"),
                ],
            )
        ]
    if apart := _apart(first.own, second.own):
        return [
            Finding(
                "on images of their own the processes step by other gradients:"
                f" {some_of(apart, first.own)}.",
                "the mean over processes, in all of them.",
                [
                    Cause(
                        "gradients are not exchanged: the model is called without its wrapper"
                        " (model.module), or in no_sync"
                    ),
                    Cause("a part of the model is outside of DistributedDataParallel"),
                ],
            )
        ]
    names = [name for name in alone.same if name in first.same]
    one, two = (torch.tensor([seen.same[n][0] for n in names]).double() for seen in (alone, first))
    factor = float(one @ two / (one @ one).clamp(min=1e-30))
    if abs(factor - 1) <= SAME_GRADIENT and not _apart(alone.same, first.same):
        return []
    count = len(together)
    causes = [
        Cause("a number that is averaged over processes counts otherwise than in one"),
        Cause("the loss depends on the rank or on the number of processes"),
    ]
    if abs(factor / count - 1) < 0.1:
        causes.insert(
            0, Cause(f"gradients are the sum of those of {count} processes, not the mean")
        )
    if abs(factor * count - 1) < 0.1:
        more = "the loss is divided by the number of processes, and gradients are averaged too"
        causes.insert(0, Cause(more))
    return [
        Finding(
            f"with the same images, two processes step by {factor:.3g} times the gradient of one.",
            f"the same gradient, within {SAME_GRADIENT:g}.",
            causes,
        )
    ]


def _of_scores(alone: Seen, together: list[Seen], tested: Sequence[Any]) -> list[Finding]:
    found = together[0].scores
    apart = [k for k, v in alone.scores.items() if abs(found.get(k, 0.0) - v) > SAME_SCORE]
    if not apart:
        return []
    answered = sum(seen.answered for seen in together)
    share = Cause(
        "detections are not gathered: scores are of one process's share, or averaged over shares",
        "build_evaluator",
    )
    twice = Cause(
        f"{answered - len(tested)} of {len(tested)} test images are evaluated twice: every process"
        " takes all images, or a sampler repeats some to fill up",
        "build_test_loader",
    )
    lost = Cause(
        f"{len(tested) - answered} of {len(tested)} test images are evaluated by no process",
        "build_test_loader",
    )
    causes = [share, Cause("the order of detections decides between equal scores")]
    if answered != len(tested):
        causes.insert(0, twice if answered > len(tested) else lost)
    return [
        Finding(
            f"{apart[0]} is {found.get(apart[0], float('nan')):.1f} by two processes, and"
            f" {alone.scores[apart[0]]:.1f} by one, of the same detections.",
            "the same score.",
            causes,
        )
    ]


def _apart(one: dict[str, Print], two: dict[str, Print]) -> list[str]:
    """Names of what differs by more than rounding; a tensor that one side lacks does."""
    floor = 1e-6 * max((norm for _, norm in one.values()), default=0.0)

    def differs(name: str) -> bool:
        if name not in one or name not in two:
            return True
        (a, size), (b, other) = one[name], two[name]
        return abs(a - b) > SAME_GRADIENT * max(size, other) + floor

    return [name for name in dict.fromkeys((*one, *two)) if differs(name)]
