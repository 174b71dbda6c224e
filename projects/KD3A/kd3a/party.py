"""A party whose model is trained by Seriatim's trainer, in a folder of its own.

Its data, labels, optimizer and generators stay there. What it had after the last two rounds is
kept, so that a round can be done again, and a killed federation goes on as if nothing had been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from kd3a.averaging import State
from kd3a.config import rounds, shared_parts, steps
from kd3a.messages import TARGET, Introduction, Scalars, Work
from kd3a.pictures import draw_votes
from kd3a.student import ConsensusStudent, Teachers
from seriatim.data.loader import Mapper, training_records
from seriatim.data.records import Record
from seriatim.engine.state import seed_everything
from seriatim.engine.trainer import Trainer
from seriatim.visualization.sheet import write_image


class PartyTrainer(Trainer):
    """A Trainer whose learning rate falls along a cosine over all rounds, to KD3A.END_LR.

    The public code stretches the cosine over its number of epochs whatever the number of rounds,
    so that with more rounds than epochs the rate rises again.
    """

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
        curve = CosineParamScheduler(1.0, cfg.KD3A.END_LR / cfg.SOLVER.BASE_LR)
        return LRMultiplier(optimizer, curve, max_iter=cfg.SOLVER.MAX_ITER)

    @classmethod
    def build_mapper(cls, cfg: CfgNode, is_train: bool, **overrides: Any) -> Mapper:
        mapper = super().build_mapper(cfg, is_train, **overrides)
        keys = cfg.KD3A
        lies = f"{keys.ATTACK_DOMAIN}_train" in cfg.DATASETS.TRAIN and keys.ATTACK_LEVEL > 0
        return Mislabelling.of(cfg, mapper) if is_train and lies else mapper


@dataclass(frozen=True)
class Mislabelling:
    """A mapper that calls some images by the class after their own (the last by the first).

    The public code does so to the first images of every batch, which are others in each epoch, so
    that every image is right at times; here the images are drawn once.
    """

    mapper: Mapper
    images: frozenset[int]
    classes: int

    @classmethod
    def of(cls, cfg: CfgNode, mapper: Mapper) -> Mislabelling:
        """KD3A.ATTACK_LEVEL of the images of DATASETS.TRAIN, drawn by SEED."""
        ids = np.sort([record["image_id"] for record in training_records(cfg)[1]])
        count = round(cfg.KD3A.ATTACK_LEVEL * len(ids))
        drawn = np.random.default_rng(cfg.SEED).choice(ids, count, replace=False)
        return cls(mapper, frozenset(drawn.tolist()), cfg.MODEL.CLASSIFIER.NUM_CLASSES)

    def __call__(self, record: Record) -> Record:
        mapped = self.mapper(record)
        if record["image_id"] in self.images:
            mapped["label"] = (mapped["label"] + 1) % self.classes
        return mapped


class TrainerParty:
    """What a coordinator asks (`kd3a.client_app.Party`), done by a `Trainer`.

    Args:
        name: of the party.
        role: SOURCE or TARGET.
        cfg: its config: DATASETS.TRAIN and TEST are its own, OUTPUT_DIR is its folder.
        trainer: the class that builds model, loader and evaluator.
    """

    def __init__(
        self, name: str, role: str, cfg: CfgNode, trainer: type[Trainer] = PartyTrainer
    ) -> None:
        self._cfg = cfg = cfg.clone()
        cfg.defrost()
        self._steps = steps(cfg, target=role == TARGET)
        cfg.SOLVER.MAX_ITER = rounds(cfg) * self._steps
        self._trainer = trainer
        self.introduction = Introduction(name, role, sum(training_records(cfg)[0]))

    def train(self, work: Work) -> tuple[State, Scalars]:
        def prepare(model: nn.Module) -> None:
            if work.scalars.get("proximal-mu"):
                add_proximal_term(model, float(work.scalars["proximal-mu"]))

        return self._round(work, prepare)

    def distil(self, work: Work) -> tuple[State, Scalars, Mapping[str, State]]:
        teachers = None

        def prepare(model: nn.Module) -> None:
            nonlocal teachers
            if not isinstance(model, ConsensusStudent):
                raise TypeError(f"the target's model is a ConsensusStudent, not {type(model)}")
            models = [self.model_of(state) for state in work.sources.values()]
            teachers = Teachers(models, float(work.scalars["gate"]), self._cfg.KD3A.VARIANT)
            model.teachers = teachers

        weights, scalars = self._round(work, prepare)
        account = {"coverage": teachers.coverage, "focus": teachers.focus().tolist()}
        statistics = zip(work.sources, map(_clone, teachers.statistics()), strict=True)
        found = weights, {**scalars, **account}, dict(statistics)
        if self._cfg.KD3A.VOTE_PICTURES:
            self._draw_votes(work, teachers)
        return found

    def evaluate(self, work: Work) -> Scalars:
        model = self.model_of(work.weights, round_=work.round + 1)
        results = self._trainer.test(self._cfg, model)
        found = {
            key: float(value)
            for metrics in results.values()
            for key, value in metrics.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        with SummaryWriter(self._cfg.OUTPUT_DIR) as board:
            for name, value in found.items():
                board.add_scalar(f"global/{name}", value, self._last_step(work.round))
        return found

    def _last_step(self, round_: int) -> int:
        """Where TensorBoard shows what a round led to. It is one of the round's own, so that a
        round that is done again replaces it."""
        return round_ * self._steps - 1

    def _draw_votes(self, work: Work, teachers: Teachers) -> None:
        """Write votes.png, of the first training images, and show it in TensorBoard."""
        name = self._cfg.DATASETS.TRAIN[0]
        records = DatasetCatalog.get(name)[: self._cfg.KD3A.VOTE_PICTURES]
        mapper = self._trainer.build_mapper(self._cfg, is_train=False)
        images = teachers.models[0].pixels([mapper(record) for record in records])
        classes = MetadataCatalog.get(name).thing_classes
        picture = draw_votes(teachers, images, records, list(work.sources), classes)
        write_image(Path(self._cfg.OUTPUT_DIR) / "votes.png", picture)
        with SummaryWriter(self._cfg.OUTPUT_DIR) as board:
            step = self._last_step(work.round)
            board.add_image("votes", picture, step, dataformats="HWC")

    # A round

    def _round(self, work: Work, prepare: Callable[[nn.Module], None]) -> tuple[State, Scalars]:
        """Train from the global weights for the steps of this round."""
        start, end = (work.round - 1) * self._steps, work.round * self._steps
        seed_everything(
            int(np.random.SeedSequence([self._cfg.SEED, work.round]).generate_state(1)[0])
        )
        trainer = self._trainer(self._training_cfg())
        before = self._newest(work.round)
        if before is not None:
            trainer.checkpointer.tag_last_checkpoint(before.name)
        trainer.resume_or_load(resume=before is not None)
        # A party that missed rounds goes on where the others are.
        trainer.start_iter, trainer.max_iter = start, end
        trainer.train_step.data_loader.start = start * trainer.train_step.accumulate
        load_shared(trainer.bare_model, work.weights, shared_parts(self._cfg))
        prepare(trainer.bare_model)
        losses = _MeanLoss()
        trainer.register_hooks([losses])
        trainer.train()
        self._forget(before, self._newest(work.round + 1))
        return _cpu(trainer.bare_model.state_dict()), {"loss": losses.mean}

    def _training_cfg(self) -> CfgNode:
        """The coordinator asks for evaluation; a checkpoint is written when the round ends."""
        cfg = self._cfg.clone()
        cfg.DATASETS.TEST = ()
        cfg.SOLVER.CHECKPOINT_PERIOD = 0
        return cfg

    def model_of(self, weights: State, round_: int | None = None) -> nn.Module:
        """A model with `weights`: of another party, or (with `round_`) the global ones over those
        that are this party's own before that round."""
        model = self._trainer.build_model(self._cfg)
        own = None if round_ is None else self._newest(round_)
        if own is not None:
            model.load_state_dict(torch.load(own, weights_only=True)["model"])
        load_shared(model, weights, shared_parts(self._cfg) if own is not None else ("",))
        return model

    def _newest(self, round_: int) -> Path | None:
        """The checkpoint with which `round_` begins; None before the first."""
        last = (round_ - 1) * self._steps
        found = [p for p in self._checkpoints() if int(p.stem.removeprefix("model_")) < last]
        return found[-1] if found else None

    def _forget(self, *keep: Path | None) -> None:
        for path in self._checkpoints():
            if path not in keep:
                path.unlink()

    def _checkpoints(self) -> list[Path]:
        return sorted(Path(self._cfg.OUTPUT_DIR).glob("model_[0-9]*.pth"))


def load_shared(model: nn.Module, weights: State, parts: tuple[str, ...]) -> None:
    """Load those of `weights` whose names begin with one of `parts`; the others stay."""
    chosen = {name: value for name, value in weights.items() if name.startswith(parts)}
    unexpected = model.load_state_dict(chosen, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"the model has no {', '.join(unexpected[:3])}")


def add_proximal_term(model: nn.Module, mu: float) -> None:
    """Add mu / 2 · ‖w - w₀‖² to the losses of `model`, w₀ being its weights now (FedProx)."""
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def add(module: nn.Module, _: Any, losses: Any) -> Any:
        if not module.training:
            return losses
        parameters = dict(module.named_parameters())
        distance = sum((parameters[name] - value).square().sum() for name, value in start.items())
        return {**losses, "loss_proximal": mu / 2 * distance}

    model.register_forward_hook(add)


class _MeanLoss(HookBase):
    """The mean total loss of the steps of a round."""

    def __init__(self) -> None:
        self._losses: list[float] = []

    def after_step(self) -> None:
        self._losses.append(self.trainer.storage.history("total_loss").latest())

    @property
    def mean(self) -> float:
        return sum(self._losses) / len(self._losses)


def _clone(state: State) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in _cpu(state).items()}


def _cpu(state: State) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
