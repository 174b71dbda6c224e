"""Losses of (N, C) logits against (N, C) soft targets, whose rows are probabilities.

All are computed in float32 from log-softmax, so that logits of any size are safe. With
`reduction="none"` each gives (N,), else the mean over the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataset_tools.errors import InputError


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """(N,) int64 class numbers → (N, C) float32."""
    return F.one_hot(labels, num_classes).float()


def smooth_labels(targets: Tensor, epsilon: float) -> Tensor:
    """(1 - ε) targets + ε / C (Szegedy 2016, arXiv 1512.00567, section 7). Rows keep their sum."""
    share = targets.sum(dim=-1, keepdim=True) / targets.shape[-1]
    return targets.lerp(share.expand_as(targets), epsilon) if epsilon else targets


def soft_target_cross_entropy(
    logits: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-Σ w_c t_c log p_c, which for mixed targets is λ CE(a) + (1 - λ) CE(b).

    Args:
        weight: (C,) factor of each class. The mean is over samples, not over their weights.
    """
    return F.cross_entropy(logits.float(), targets.float(), weight, reduction=reduction)


def focal_loss(
    logits: Tensor, targets: Tensor, gamma: float = 2.0, reduction: str = "mean"
) -> Tensor:
    """-Σ t_c (1 - p_c)^γ log p_c, the softmax form of Lin 2017 (arXiv 1708.02002)."""
    log_p = F.log_softmax(logits.float(), dim=-1)
    # 1 - p from the others' probabilities: exact where p is close to 1, and so is its gradient.
    missing = -torch.expm1(log_p)
    losses = -(targets.float() * missing.clamp(min=0) ** gamma * log_p).sum(dim=-1)
    return losses.mean() if reduction == "mean" else losses


def logit_adjusted_cross_entropy(
    logits: Tensor, targets: Tensor, log_prior: Tensor, tau: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """Cross entropy of logits + τ log π (Menon 2021, arXiv 2007.07314, equation 10).

    Inference uses the logits as they are: what the prior explains they need not learn.
    """
    return soft_target_cross_entropy(logits.float() + tau * log_prior, targets, reduction=reduction)


def class_balanced_weights(counts: Sequence[int], beta: float) -> Tensor:
    """(C,) weights (1 - β) / (1 - β^n), scaled to a sum of C (Cui 2019, arXiv 1901.05555).

    β = 0 weighs all classes alike, β → 1 by 1 / n. A class without samples counts as one of one.
    """
    numbers = torch.tensor(counts, dtype=torch.float64).clamp(min=1)
    weights = (1 - beta) / (1 - torch.tensor(beta, dtype=torch.float64) ** numbers)
    return (weights * len(counts) / weights.sum()).float()


def log_prior(counts: Sequence[int]) -> Tensor:
    """(C,) log of each class's share. A class without samples counts as one of one."""
    numbers = torch.tensor(counts, dtype=torch.float64).clamp(min=1)
    return (numbers / numbers.sum()).log().float()


LOSSES = ("cross_entropy", "focal", "class_balanced", "logit_adjusted")
NEED_COUNTS = ("class_balanced", "logit_adjusted")


class ClassificationLoss(nn.Module):
    """A loss by name, after label smoothing: (N, C) logits, (N, C) targets → scalar or (N,)."""

    def __init__(
        self,
        name: str = "cross_entropy",
        *,
        label_smoothing: float = 0.0,
        gamma: float = 2.0,
        beta: float = 0.9999,
        tau: float = 1.0,
        class_counts: Sequence[int] = (),
    ) -> None:
        """
        Args:
            name: one of LOSSES.
            gamma: of the focal loss; beta: of class-balanced weights; tau: of logit adjustment.
            class_counts: training samples of each class, for NEED_COUNTS.

        Raises:
            InputError: there is no such loss, a number is out of range, or counts are missing.
        """
        super().__init__()
        _check(name, label_smoothing, beta, class_counts)
        self.label_smoothing = label_smoothing
        self._gamma, self._tau, self._name = gamma, tau, name
        per_class = None
        if name == "class_balanced":
            per_class = class_balanced_weights(class_counts, beta)
        elif name == "logit_adjusted":
            per_class = log_prior(class_counts)
        # Made from the config: no part of a checkpoint.
        self.register_buffer("per_class", per_class, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        targets = smooth_labels(targets, self.label_smoothing)
        return self._loss(logits, targets, reduction=reduction)

    def of_equal_logits(self, targets: Tensor) -> float:
        """The mean loss of logits that are all 0, in closed form: ln C for cross entropy,
        (1 - 1/C)^γ ln C for the focal loss, both times the weights of classes."""
        targets = smooth_labels(targets, self.label_smoothing).double()
        classes = targets.shape[1]
        p = torch.full((classes,), 1 / classes, dtype=torch.float64, device=targets.device)
        weights = torch.ones_like(p)
        if self._name == "logit_adjusted":
            powers = torch.exp(self._tau * self.per_class.double())
            p = powers / powers.sum()
        elif self._name == "class_balanced":
            weights = self.per_class.double()
        elif self._name == "focal":
            weights = (1 - p) ** self._gamma
        return float((targets * weights * -p.log()).sum(1).mean())

    @property
    def _loss(self) -> Callable[..., Tensor]:
        match self._name:
            case "focal":
                return lambda x, t, reduction: focal_loss(x, t, self._gamma, reduction)
            case "logit_adjusted":
                return lambda x, t, reduction: logit_adjusted_cross_entropy(
                    x, t, self.per_class, self._tau, reduction
                )
        return lambda x, t, reduction: soft_target_cross_entropy(x, t, self.per_class, reduction)


def _check(name: str, label_smoothing: float, beta: float, counts: Sequence[int]) -> None:
    group = "MODEL.CLASSIFIER"
    if name not in LOSSES:
        raise InputError(f"{group}.LOSS is {name!r}; it can be one of {', '.join(LOSSES)}.")
    if not 0 <= label_smoothing < 1:
        raise InputError(
            f"{group}.LABEL_SMOOTHING is {label_smoothing:g}; it is at least 0 and below 1."
        )
    if not 0 <= beta < 1:
        raise InputError(f"{group}.CLASS_BALANCE is {beta:g}; it is at least 0 and below 1.")
    if name in NEED_COUNTS and not counts:
        raise InputError(
            f"{group}.LOSS {name} needs {group}.CLASS_COUNTS, the number of training samples of"
            " each class. Training fills it in from the data."
        )
