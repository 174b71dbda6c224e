"""Semi-supervised classification on top of seriatim's ImageClassifier: ICT, MixMatch, FixMatch."""

from mixup.config import add_mixup_config
from mixup.fixmatch import FixMatchClassifier
from mixup.ict import ICTClassifier
from mixup.mixmatch import MixMatchClassifier
from seriatim.config import extend_config

extend_config(add_mixup_config)

__all__ = ["FixMatchClassifier", "ICTClassifier", "MixMatchClassifier", "add_mixup_config"]
