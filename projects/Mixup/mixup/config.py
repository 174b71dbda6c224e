"""The project's config keys. Labels, views and the ratio of the streams are SERIATIM.SEMI's; mixing
of labelled images is SERIATIM.MIX's, with ALPHA as alpha_s."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_mixup_config(cfg: CfgNode) -> None:
    """Add cfg.MIXUP. The defaults are those of ICT on CIFAR-10 (Verma 2019, arXiv 1903.03825)."""
    cfg.MIXUP = m = CfgNode()
    # Decay of the teacher, the moving average of the weights, that guesses the labels of unlabelled
    # images; 0: the model guesses itself.
    m.TEACHER_DECAY = 0.999
    # λ ~ Beta(ALPHA_U, ALPHA_U) for unlabelled images (ICT; in MixMatch for all).
    m.ALPHA_U = 1.0
    # What compares predictions with guesses in ICT: "mse" of probabilities (mean over images and
    # classes), or "cross_entropy".
    m.CONSISTENCY = "mse"
    # Largest weight of the loss on unlabelled images, reached after RAMP_SHARE of the steps: along
    # exp(-5 (1 - t)²), or a straight line.
    m.WEIGHT = 100.0
    m.RAMP_SHARE = 0.25
    m.RAMP = "exp"
    # MixMatch: guesses are sharpened to p^(1/T).
    m.TEMPERATURE = 0.5
    # FixMatch: only guesses of at least this probability count.
    m.THRESHOLD = 0.95
