"""Weights of several losses: fixed, learned as uncertainties, or set by GradNorm.

They stand behind any model that gives a dict of losses: `balance` puts the module into it, and a
forward hook passes the dict on. Whatever reads the model's losses sees the weighted ones.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from dataset_tools.errors import InputError

BALANCES = ("fixed", "uncertainty", "gradnorm")
Losses = dict[str, Tensor]


class LossBalance(nn.Module):
    """Name of a loss → weight. Losses that it does not name keep the weight 1."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """
        Args:
            weights: at the start, above 0 for all but fixed ones.
        """
        super().__init__()
        self.names = tuple(weights)

    def forward(self, losses: Losses) -> Losses:
        """
        Raises:
            InputError: a loss that it names is not there.
        """
        missing = [name for name in self.names if name not in losses]
        if missing:
            raise InputError(
                f"SERIATIM.LOSS_BALANCE.WEIGHTS names {missing[0]}, but the losses are"
                f" {', '.join(losses)}."
            )
        return losses | self.balanced({name: losses[name] for name in self.names})

    @abstractmethod
    def balanced(self, losses: Losses) -> Losses:
        """The losses that are named, weighted."""

    @abstractmethod
    def current(self) -> dict[str, float]:
        """Name of a loss → its weight now."""


class FixedWeights(LossBalance):
    """w L."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self._weights = dict(weights)

    def balanced(self, losses: Losses) -> Losses:
        return {name: self._weights[name] * loss for name, loss in losses.items()}

    def current(self) -> dict[str, float]:
        return dict(self._weights)


class UncertaintyWeights(LossBalance):
    """exp(-s) L + s / 2 with a learned s = log σ² for each loss (Kendall 2018, arXiv 1705.07115,
    equation 10). A loss of constant size L ends at the weight 1 / (2 L).

    Of s / 2 its first value is taken away, so that training begins with the weighted losses.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self._start = {name: -math.log(weight) for name, weight in weights.items()}
        self.log_variance = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(s)) for name, s in self._start.items()}
        )

    def balanced(self, losses: Losses) -> Losses:
        found = {}
        for name, loss in losses.items():
            s = self.log_variance[name]
            found[name] = torch.exp(-s) * loss + (s - self._start[name]) / 2
        return found

    def current(self) -> dict[str, float]:
        return {name: float(torch.exp(-s.detach())) for name, s in self.log_variance.items()}


class GradNorm(LossBalance):
    """w L, where w is moved so that the losses train at similar rates (GradNorm, Chen 2018, arXiv
    1711.02257).

    The target of each weighted gradient's norm at the `shared` weight is the mean norm times the
    loss's inverse training rate, relative to the mean, to the power α. Each step of training moves
    log w by `rate` against the gradient of Σ |norm - target| / mean norm; then the weights get
    their sum back. The paper moves w itself, with a rate that must fit the scale of the losses and
    can take a weight below 0. They are buffers: the optimizer and its weight decay have no part in
    them.
    """

    def __init__(
        self, weights: Mapping[str, float], shared: nn.Parameter, alpha: float, rate: float
    ) -> None:
        """
        Args:
            shared: a weight that all the losses depend on; the last such.
        """
        super().__init__(weights)
        self._shared = [shared]  # in a list: it is another module's parameter, and stays that
        self._alpha, self._rate = alpha, rate
        self.register_buffer("weights", torch.tensor([float(w) for w in weights.values()]))
        self.register_buffer("initial", torch.zeros(len(weights)))

    def balanced(self, losses: Losses) -> Losses:
        weights = self.weights.clone()
        if torch.is_grad_enabled():
            self._move(losses)
        return {n: w * loss for (n, loss), w in zip(losses.items(), weights, strict=True)}

    def _move(self, losses: Losses) -> None:
        found = [
            torch.autograd.grad(loss, self._shared, retain_graph=True, allow_unused=True)[0]
            if loss.requires_grad
            else None
            for loss in losses.values()
        ]
        norms = [self.weights.new_zeros(()) if g is None else g.float().norm() for g in found]
        values = [loss.detach().float() for loss in losses.values()]
        norms, values = _mean_over_processes(torch.stack([*norms, *values])).chunk(2)
        if not bool(self.initial.any()):
            self.initial.copy_(values)
        self.weights.copy_(
            gradnorm_step(
                self.weights,
                norms,
                values / self.initial.clamp(min=1e-12),
                self._alpha,
                self._rate,
            )
        )

    def current(self) -> dict[str, float]:
        return dict(zip(self.names, self.weights.tolist(), strict=True))


def gradnorm_step(
    weights: Tensor, norms: Tensor, ratios: Tensor, alpha: float, rate: float
) -> Tensor:
    """The weights (L,) after one step of GradNorm; their sum stays.

    Args:
        norms: (L,) norm of the gradient of each loss, unweighted.
        ratios: (L,) each loss by what it was at the start.
    """
    weighted = weights * norms
    mean = weighted.mean().clamp(min=1e-12)
    target = mean * (ratios / ratios.mean().clamp(min=1e-12)) ** alpha
    moved = weights * torch.exp(-rate * torch.sign(weighted - target) * weighted / mean)
    return moved * (weights.sum() / moved.sum())


def _mean_over_processes(values: Tensor) -> Tensor:
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(values)
        values = values / comm.get_world_size()
    return values


def balance(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model` with its losses balanced as SERIATIM.LOSS_BALANCE says; the same object.

    Raises:
        InputError: there is no such way, or nothing to balance.
    """
    keys = cfg.SERIATIM.LOSS_BALANCE
    if not keys.NAME:
        return model
    model.loss_balance = _build(keys, model).to(next(model.parameters()).device)
    model.register_forward_hook(_balance_outputs)
    return model


def _balance_outputs(model: nn.Module, inputs: object, outputs: object) -> object:
    if not model.training or not isinstance(outputs, dict):
        return outputs
    if torch.is_grad_enabled():
        storage = get_event_storage()
        for name, weight in model.loss_balance.current().items():
            storage.put_scalar(f"loss_weight/{name}", weight)
    return model.loss_balance(outputs)


def _build(keys: CfgNode, model: nn.Module) -> LossBalance:
    weights = _weights(keys.WEIGHTS)
    if keys.NAME not in BALANCES:
        raise InputError(
            f"SERIATIM.LOSS_BALANCE.NAME is {keys.NAME!r}; it can be '' or one of"
            f" {', '.join(BALANCES)}."
        )
    if not weights:
        raise InputError(
            "SERIATIM.LOSS_BALANCE.WEIGHTS is empty: name the losses that are balanced, each with"
            " the weight that it starts from, such as [[loss_cls, 1.0], [loss_box_reg, 1.0]]."
        )
    if keys.NAME == "fixed":
        return FixedWeights(weights)
    low = [name for name, weight in weights.items() if weight <= 0]
    if low:
        raise InputError(
            f"SERIATIM.LOSS_BALANCE.WEIGHTS: {low[0]} starts from {weights[low[0]]:g};"
            f" {keys.NAME} takes weights above 0."
        )
    if keys.NAME == "uncertainty":
        return UncertaintyWeights(weights)
    return GradNorm(weights, _shared_weight(model, keys.SHARED), keys.ALPHA, keys.RATE)


def _weights(pairs: Iterable[object]) -> dict[str, float]:
    try:
        return {str(name): float(weight) for name, weight in pairs}
    except (TypeError, ValueError):
        raise InputError(
            "SERIATIM.LOSS_BALANCE.WEIGHTS is a list of pairs [name of a loss, weight], not"
            f" {pairs!r}."
        ) from None


def _shared_weight(model: nn.Module, name: str) -> nn.Parameter:
    """The parameter `name`; "" for the last trained weight of the backbone."""
    if name:
        found = dict(model.named_parameters()).get(name)
        if found is None or not found.requires_grad:
            raise InputError(
                f"SERIATIM.LOSS_BALANCE.SHARED is {name!r}, which is no trained parameter of the"
                " model."
            )
        return found
    inside = getattr(model, "backbone", model).parameters()
    matrices = [p for p in inside if p.requires_grad and p.ndim > 1]
    if not matrices:
        raise InputError(
            "SERIATIM.LOSS_BALANCE gradnorm needs a trained weight that the losses share, but the"
            " backbone is frozen. Name one in SERIATIM.LOSS_BALANCE.SHARED."
        )
    return matrices[-1]
