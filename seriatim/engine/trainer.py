"""The trainer: Detectron2's `DefaultTrainer` with our step, hooks and exact resumption."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, TrainerBase, create_ddp_model
from detectron2.engine import hooks as detectron2_hooks
from detectron2.evaluation import DatasetEvaluator, inference_context
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, JSONWriter, TensorboardXWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from seriatim.engine import hooks
from seriatim.engine.checkpointer import AtomicCheckpointer, save_atomically
from seriatim.engine.ema import EMAHook, WeightAverage
from seriatim.engine.optimizer import build_clipper, build_optimizer
from seriatim.engine.state import PlainState, preserve_rng, rng_state, set_rng_state
from seriatim.engine.train_step import NonFiniteError, TrainLoader, TrainStep
from seriatim.hardware import choose_memory_format, choose_precision

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains what a config describes, and can be killed at any moment and resumed bit for bit.

    Override the `build_*` class methods to change a part, as with Detectron2's DefaultTrainer.

    Attributes:
        cfg: the config; model, optimizer, scheduler, checkpointer: as in DefaultTrainer.
        average: the moving average of the weights, or None (SERIATIM.SOLVER.EMA_DECAY 0).
        evaluation_model: the model that is evaluated and exported: the average where there is one.
        max_iter: may be lowered by a hook in `after_step` (to `iter + 1`) to end the training.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer.__init__ fixes the inner trainer, the checkpointer and a DDP wrapper that
        # only CUDA takes. Its methods are extension points and are kept; its construction is not.
        TrainerBase.__init__(self)
        self.cfg = cfg
        device, solver = cfg.MODEL.DEVICE, cfg.SERIATIM.SOLVER
        model = self.build_model(cfg)
        model = model.to(memory_format=self.memory_format(cfg))
        optimizer = self.build_optimizer(cfg, model)
        self._plain_state = PlainState(model)
        self.average = None
        if solver.EMA_DECAY > 0:
            self.average = WeightAverage(model, solver.EMA_DECAY, solver.EMA_WARMUP)
        loader = TrainLoader(lambda start: self.build_train_loader(cfg, start_iteration=start))
        self._trainer = TrainStep(
            wrap_distributed(model),
            loader,
            optimizer,
            precision=choose_precision(solver.PRECISION, device),
            accumulate=solver.ACCUMULATE,
            clip=build_clipper(cfg),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        if self.average is not None:
            self.checkpointer.add_checkpointable("ema", self.average)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.last_results: OrderedDict | None = None  # of the last evaluation
        self.last_saved = -1  # the step of the last checkpoint that this process saved
        self._process_states: list[dict[str, Any]] | None = None
        self._rng_to_restore: dict[str, Any] | None = None
        self.register_hooks(self.build_hooks())

    @staticmethod
    def memory_format(cfg: CfgNode) -> torch.memory_format:
        """SERIATIM.SOLVER.CHANNELS_LAST's. "auto" is "off" with keypoints: Detectron2's loss calls
        `view` on their heatmaps, which only contiguous ones allow."""
        value = cfg.SERIATIM.SOLVER.CHANNELS_LAST
        if cfg.MODEL.KEYPOINT_ON and value == "auto":
            value = "off"
        return choose_memory_format(value, cfg.MODEL.DEVICE)

    @property
    def bare_model(self) -> nn.Module:
        """The model without its wrapper for distributed training."""
        model = self.model
        return model.module if isinstance(model, DistributedDataParallel) else model

    @property
    def evaluation_model(self) -> nn.Module:
        return self.bare_model if self.average is None else self.average.model

    @property
    def finished(self) -> bool:
        """Whether the last step is done (in `after_train`: whether training came to its end)."""
        return self.iter >= self.max_iter

    @property
    def images_last_step(self) -> int:
        return self._trainer.images_last_step

    @property
    def train_step(self) -> TrainStep:
        """What does each step: its batches, precision, optimizer and scaler."""
        return self._trainer

    # Parts that a subclass can replace

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        import seriatim.modeling  # noqa: F401 (registers our architectures and backbones)
        from seriatim.modeling.balance import balance

        model = balance(cfg, build_model(cfg))
        logger.debug(f"Model:\n{model}")
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        logger.info(
            f"{cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.DEVICE}: {total / 1e6:.2f} M parameters,"
            f" {trainable / 1e6:.2f} M of them trainable"
        )
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0):
        """The training batches from `start_iteration` on; each is this process's share."""
        from seriatim.data.loader import build_train_loader

        mapper = cls.build_mapper(cfg, is_train=True)
        return build_train_loader(cfg, mapper=mapper, start_iteration=start_iteration)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        from seriatim.data.loader import build_test_loader

        return build_test_loader(cfg, dataset_name, mapper=cls.build_mapper(cfg, is_train=False))

    @classmethod
    def build_mapper(cls, cfg: CfgNode, is_train: bool, **overrides: Any):
        """Record of a dataset → input of the model; `overrides` replace arguments of the mapper."""
        from seriatim.data.build import build_mapper

        return build_mapper(cfg, is_train, **overrides)

    @classmethod
    def build_validation_loader(cls, cfg: CfgNode):
        """Images of DATASETS.TEST with annotations, one a batch, without random augmentation."""
        from seriatim.data.build import fixed_augmentations

        mapper = cls.build_mapper(cfg, is_train=True, augmentations=fixed_augmentations(cfg))
        records = [record for name in cfg.DATASETS.TEST for record in DatasetCatalog.get(name)]
        records = records[: cfg.SERIATIM.HOOKS.VALIDATION_LOSS_IMAGES]
        return build_detection_test_loader(records, mapper=mapper, num_workers=0)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        from seriatim.evaluation import build_evaluator

        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> OrderedDict:
        """Evaluate `model` on DATASETS.TEST, by tiles where SERIATIM.EVAL.TILE says so."""
        with preserve_rng():
            return super().test(cfg, cls.wrap_for_evaluation(cfg, model), evaluators)

    @classmethod
    def wrap_for_evaluation(cls, cfg: CfgNode, model: nn.Module) -> nn.Module:
        """`model` as evaluation calls it: by tiles, with test-time augmentation, or as it is."""
        from seriatim.evaluation.augmented import wrap_augmented
        from seriatim.evaluation.tiled import wrap_tiled

        return wrap_augmented(cfg, wrap_tiled(cfg, model))

    def build_hooks(self) -> list[detectron2_hooks.HookBase | None]:
        """The hooks in order: what changes the model, then what saves, evaluates and writes."""
        cfg, keys = self.cfg, self.cfg.SERIATIM.HOOKS
        return [
            detectron2_hooks.IterationTimer(),
            detectron2_hooks.LRScheduler(),
            hooks.ModelStep() if hasattr(self.bare_model, "after_step") else None,
            None if self.average is None else EMAHook(self.average),
            hooks.Statistics(keys.LOG_PERIOD, keys.HISTOGRAM_PERIOD),
            hooks.Watch(keys.WATCH_PERIOD) if keys.WATCH else None,
            self._precise_bn_hook(),
            hooks.Checkpoint(cfg.SOLVER.CHECKPOINT_PERIOD),
            hooks.Interrupt(),
            *self._evaluation_hooks(),
            self._input_pictures_hook(),
            hooks.Progress(keys.LOG_PERIOD) if comm.is_main_process() else None,
            hooks.Writers(self.build_writers, keys.LOG_PERIOD) if comm.is_main_process() else None,
        ]

    def _precise_bn_hook(self) -> detectron2_hooks.HookBase | None:
        """It comes before the hooks that save and evaluate, because it changes the model."""
        cfg = self.cfg
        if not cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(self.evaluation_model):
            return None
        loader = TrainLoader(lambda start: self.build_train_loader(cfg, start_iteration=start))
        return hooks.PreciseBatchNorm(
            cfg.TEST.EVAL_PERIOD, self.evaluation_model, loader, cfg.TEST.PRECISE_BN.NUM_ITER
        )

    def _input_pictures_hook(self) -> detectron2_hooks.HookBase | None:
        from seriatim.data.build import classifies

        cfg, period = self.cfg, self.cfg.SERIATIM.HOOKS.PICTURE_PERIOD
        if period <= 0 or not cfg.DATASETS.TRAIN or not classifies(cfg):
            return None
        return hooks.InputPictures(period, cfg.DATASETS.TRAIN[0], cfg.INPUT.FORMAT)

    def _evaluation_hooks(self) -> list[detectron2_hooks.HookBase]:
        cfg, keys = self.cfg, self.cfg.SERIATIM.HOOKS
        if not cfg.DATASETS.TEST:
            return []
        listeners, others = [], []
        if keys.BEST_METRIC:
            listeners.append(hooks.BestCheckpoint(keys.BEST_METRIC, keys.BEST_MODE))
        if keys.EARLY_STOPPING_PATIENCE > 0:
            listeners.append(
                hooks.EarlyStopping(
                    keys.BEST_METRIC,
                    keys.BEST_MODE,
                    keys.EARLY_STOPPING_PATIENCE,
                    keys.EARLY_STOPPING_MIN_DELTA,
                )
            )
        if keys.VALIDATION_LOSS_PERIOD > 0:
            others.append(
                hooks.ValidationLoss(
                    keys.VALIDATION_LOSS_PERIOD, lambda: self.build_validation_loader(cfg)
                )
            )
        if keys.PICTURE_PERIOD > 0:
            mapper = self.build_mapper(cfg, is_train=False)
            others.append(
                hooks.Pictures(
                    keys.PICTURE_PERIOD,
                    cfg.DATASETS.TEST[0],
                    keys.PICTURE_IMAGES,
                    mapper,
                    self.predict,
                )
            )
        evaluation = hooks.Evaluation(cfg.TEST.EVAL_PERIOD, self.evaluate, listeners)
        return [*listeners, *others, evaluation]

    def evaluate(self) -> OrderedDict:
        """Metrics of `evaluation_model` on DATASETS.TEST."""
        return self.test(self.cfg, self.evaluation_model)

    def predict(self, image: dict[str, Any]) -> dict[str, Any]:
        """What `evaluation_model` gives for one input of the test mapper."""
        with inference_context(self.evaluation_model), torch.no_grad():
            return self.wrap_for_evaluation(self.cfg, self.evaluation_model)([image])[0]

    def compute_losses(
        self, model: nn.Module, batch: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor]:
        """The loss dict of `model` on `batch` in the precision of training."""
        return self._trainer.compute_losses(model, batch)

    def build_writers(self) -> list[EventWriter]:
        """Writers of metrics.json and TensorBoard."""
        folder = Path(self.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        hooks.drop_later_metrics(folder / "metrics.json", self.start_iter)
        return [
            JSONWriter(str(folder / "metrics.json")),
            TensorboardXWriter(str(folder), purge_step=self.start_iter or None),
        ]

    # The loop

    def train(self) -> OrderedDict | None:
        """Train from `start_iter` to `max_iter`; gives the last evaluation's metrics.

        As TrainerBase.train, but `max_iter` is looked at after every step, and an exception reaches
        the caller without a traceback in the log.
        """
        logger.info(f"Training from step {self.start_iter} to {self.max_iter}")
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                if self._rng_to_restore is not None:
                    set_rng_state(self._rng_to_restore)
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            finally:
                self.after_train()
        return self.last_results

    def run_step(self) -> None:
        """One step. One that becomes NaN or infinite leaves a dump, where it is watched."""
        try:
            super().run_step()
        except NonFiniteError as error:
            told = [hook.dump(error) for hook in self._hooks if isinstance(hook, hooks.Watch)]
            raise NonFiniteError(" ".join([str(error), *told])) from error

    # Checkpoints

    def save_checkpoint(self) -> Path:
        """Save all that a resumed run needs after the step `iter`. All processes must call it."""
        mine = {"rng": rng_state(), "plain": self._plain_state.state_dict()}
        self._process_states = comm.gather(mine)
        name = f"model_{self.iter:07d}"
        self.checkpointer.save(name, iteration=self.iter)
        self.last_saved = self.iter
        return Path(self.cfg.OUTPUT_DIR) / f"{name}.pth"

    def export(self, name: str, **extra: Any) -> Path:
        """Save the evaluated weights alone as NAME.pth, for any DetectionCheckpointer."""
        path = Path(self.cfg.OUTPUT_DIR) / f"{name}.pth"
        if comm.is_main_process():
            save_atomically(path, {"model": self.evaluation_model.state_dict(), **extra})
        return path

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from OUTPUT_DIR's last checkpoint, or start from MODEL.WEIGHTS."""
        if resume and not self.checkpointer.has_checkpoint():
            logger.warning(
                f"{self.cfg.OUTPUT_DIR} holds no checkpoint: starting from the beginning"
            )
        super().resume_or_load(resume)
        self._trainer.data_loader.start = self.start_iter * self._trainer.accumulate

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, optimizer, scaler; of each process generators and plain numbers."""
        state = TrainerBase.state_dict(self)
        state["_trainer"] = self._trainer.state_dict()
        state["processes"] = self._process_states
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state)
        self._trainer.load_state_dict(state["_trainer"])
        processes, rank = state.get("processes") or [], comm.get_rank()
        if len(processes) != comm.get_world_size():
            logger.warning(
                f"The checkpoint is of {len(processes)} process(es), this run has"
                f" {comm.get_world_size()}: it goes on, but not bit for bit"
            )
        if rank < len(processes):
            self._rng_to_restore = processes[rank]["rng"]
            self._plain_state.load_state_dict(processes[rank]["plain"])


def wrap_distributed(model: nn.Module) -> nn.Module:
    """`model` in DistributedDataParallel where there are several processes, on CUDA and on CPU."""
    if next(model.parameters()).device.type == "cuda":
        return create_ddp_model(model, broadcast_buffers=False)
    return create_ddp_model(model, broadcast_buffers=False, device_ids=None)
