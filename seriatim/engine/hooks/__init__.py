"""The trainer's hooks, one a file. docs/hooks.md says what each does and which key governs it."""

from seriatim.engine.hooks.best_checkpoint import BestCheckpoint
from seriatim.engine.hooks.checkpoint import Checkpoint
from seriatim.engine.hooks.early_stopping import EarlyStopping
from seriatim.engine.hooks.evaluation import Evaluation
from seriatim.engine.hooks.input_pictures import InputPictures
from seriatim.engine.hooks.interrupt import Interrupt
from seriatim.engine.hooks.model_step import ModelStep
from seriatim.engine.hooks.pictures import Pictures
from seriatim.engine.hooks.precise_bn import PreciseBatchNorm
from seriatim.engine.hooks.progress import Progress
from seriatim.engine.hooks.statistics import Statistics
from seriatim.engine.hooks.validation_loss import ValidationLoss
from seriatim.engine.hooks.watch import Watch
from seriatim.engine.hooks.writers import Writers, drop_later_metrics

__all__ = [
    "BestCheckpoint",
    "Checkpoint",
    "EarlyStopping",
    "Evaluation",
    "InputPictures",
    "Interrupt",
    "ModelStep",
    "Pictures",
    "PreciseBatchNorm",
    "Progress",
    "Statistics",
    "ValidationLoss",
    "Watch",
    "Writers",
    "drop_later_metrics",
]
