"""The mixup family: training on mixtures of two samples and of their soft targets.

Mixup (Zhang 2018, arXiv 1710.09412) blends images, manifold mixup (Verma 2019, arXiv 1806.05236)
what goes into a hidden layer, CutMix (Yun 2019, arXiv 1905.04899) pastes a box. Each is a function
of inputs and targets, of λ, and of whom to mix with: a permutation of the batch, or a second batch.

torchvision's v2.MixUp and v2.CutMix give the same numbers for one λ a batch and a partner that is
the neighbour in the batch; they take images only, so a hidden layer, one λ a sample, a second batch
and partners that do not depend on the order of the data are beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Beta

from dataset_tools.errors import InputError

# Whom each sample is mixed with: indices (B,) into the batch, or (inputs, targets) of another.
Partners = Tensor | tuple[Tensor, Tensor]
MIXINGS = ("mixup", "manifold", "cutmix")


def draw_lambda(
    alpha: float, batch: int, per_sample: bool = False, device: torch.device | str = "cpu"
) -> Tensor:
    """(batch,) λ ~ Beta(α, α), float32 from torch's CPU generator: one, repeated, or one each.

    α ≤ 0 gives 1: nothing is mixed.
    """
    if alpha <= 0:
        return torch.ones(batch, device=device)
    drawn = Beta(alpha, alpha).sample((batch if per_sample else 1,))
    return drawn.to(device).expand(batch)


def draw_partners(batch: int, device: torch.device | str = "cpu") -> Tensor:
    """(batch,) int64, a random permutation from torch's CPU generator."""
    return torch.randperm(batch).to(device)


def blend(first: Tensor, second: Tensor, lam: Tensor) -> Tensor:
    """λ first + (1 - λ) second; `lam` (B,) goes along the first dimension of (B, …) tensors."""
    lam = lam.to(first.dtype).reshape(-1, *[1] * (first.ndim - 1))
    return torch.lerp(second, first, lam)


def mixup(
    inputs: Tensor, targets: Tensor, lam: Tensor, partners: Partners
) -> tuple[Tensor, Tensor]:
    """Inputs (B, …) and soft targets (B, C), both blended by `lam` (B,)."""
    other_inputs, other_targets = _partners(inputs, targets, partners)
    return blend(inputs, other_inputs, lam), blend(targets, other_targets, lam)


def cutmix(
    images: Tensor, targets: Tensor, lam: Tensor, partners: Partners
) -> tuple[Tensor, Tensor]:
    """A box of the partner replaces the same box of each image (B, C, H, W).

    The box has the share 1 - λ of the area before it is clipped at the border; its centre is drawn
    from torch's CPU generator, one for all where `lam` is one for all. Targets are blended by the
    share of pixels that is left.
    """
    other_images, other_targets = _partners(images, targets, partners)
    boxes = draw_boxes(lam, *images.shape[-2:])
    inside = box_masks(boxes, *images.shape[-2:])
    kept = 1 - inside.float().mean(dim=(1, 2))
    mixed = torch.where(inside[:, None], other_images, images)
    return mixed, blend(targets, other_targets, kept)


def draw_boxes(lam: Tensor, height: int, width: int) -> Tensor:
    """(B, 4) int64 XYXY px, clipped to the image; sides are √(1 - λ) of the image's."""
    count = 1 if _is_shared(lam) else len(lam)
    x = torch.randint(width, (count,)).to(lam.device)
    y = torch.randint(height, (count,)).to(lam.device)
    half = 0.5 * (1 - lam[:count]).sqrt()
    half_width, half_height = (half * width).long(), (half * height).long()
    boxes = torch.stack(
        [
            (x - half_width).clamp(min=0),
            (y - half_height).clamp(min=0),
            (x + half_width).clamp(max=width),
            (y + half_height).clamp(max=height),
        ],
        dim=1,
    )
    return boxes.expand(len(lam), 4)


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W) bool: True within each box, whose right and lower edges are exclusive."""
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    left, top, right, bottom = (edge[:, None] for edge in boxes.unbind(1))
    columns, rows = (x >= left) & (x < right), (y >= top) & (y < bottom)
    return rows[:, :, None] & columns[:, None, :]


def manifold_mixup(
    forward: Callable[[Tensor], Tensor],
    layer: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    lam: Tensor,
    partners: Partners,
) -> tuple[Tensor, Tensor]:
    """What `forward(inputs)` gives if the input of its module `layer` is blended, and the targets.

    A second batch goes through the layers before together with the first, and ends at `layer`.
    """
    if isinstance(partners, Tensor):
        with changed_input(layer, lambda hidden: blend(hidden, hidden[partners], lam)):
            return forward(inputs), blend(targets, targets[partners], lam)
    count = len(inputs)
    with changed_input(layer, lambda hidden: blend(hidden[:count], hidden[count:], lam)):
        outputs = forward(torch.cat([inputs, partners[0]]))
    return outputs, blend(targets, partners[1], lam)


@contextmanager
def changed_input(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the body `layer` gets `change(x)` in place of its first argument x."""
    handle = layer.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Mixer:
    """Mixes every batch anew: SERIATIM.MIX.

    Attributes:
        name: one of MIXINGS.
        alpha: of λ ~ Beta(α, α).
        layers: for "manifold", the layers of which one is drawn for each batch; 0 is the input, i
            the input of block i.
        per_sample: one λ (and box) for each sample instead of one for the batch.
    """

    name: str
    alpha: float
    layers: tuple[int, ...] = (0, 1, 2)
    per_sample: bool = False

    def __post_init__(self) -> None:
        if self.name not in MIXINGS:
            raise InputError(
                f"SERIATIM.MIX.NAME is {self.name!r}; it can be '' or one of {', '.join(MIXINGS)}."
            )
        if self.alpha <= 0:
            raise InputError(f"SERIATIM.MIX.ALPHA is {self.alpha:g}; it must be above 0.")
        if self.name == "manifold" and not self.layers:
            raise InputError(
                "SERIATIM.MIX.LAYERS is empty: manifold mixup needs a layer to mix at."
            )

    def check_layers(self, blocks: Sequence[nn.Module]) -> None:
        """`blocks[i]` is the module whose input layer i means.

        Raises:
            InputError: a layer is not among them.
        """
        wrong = [n for n in self.layers if not 0 <= n < len(blocks)]
        if self.name == "manifold" and wrong:
            raise InputError(
                f"SERIATIM.MIX.LAYERS {self.layers} names layer {wrong[0]}, but this backbone has"
                f" layers 0 (its input) to {len(blocks) - 1}."
            )

    def __call__(
        self,
        forward: Callable[[Tensor], Tensor],
        blocks: Sequence[nn.Module],
        inputs: Tensor,
        targets: Tensor,
        others: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(outputs of `forward`, soft targets) of a mixture of the batch with itself.

        Args:
            forward: inputs → outputs; it calls each of `blocks` once.
            blocks: the modules that `layers` counts; 0 is the one that takes the input.
            inputs: (B, …) float; targets: (B, C), rows are probabilities.
            others: (inputs, targets) of a second batch, to mix with in place of the batch itself.
        """
        batch, device = len(inputs), inputs.device
        lam = draw_lambda(self.alpha, batch, self.per_sample, device)
        partners = draw_partners(batch, device) if others is None else others
        if self.name == "manifold":
            layer = blocks[self.layers[int(torch.randint(len(self.layers), ()))]]
            return manifold_mixup(forward, layer, inputs, targets, lam, partners)
        mix = cutmix if self.name == "cutmix" else mixup
        mixed, soft = mix(inputs, targets, lam, partners)
        return forward(mixed), soft


@contextmanager
def unmixed(model: nn.Module) -> Iterator[None]:
    """Within the body a model that has a `mixer` trains on its samples as they are."""
    mixer = getattr(model, "mixer", None)
    if mixer is not None:
        model.mixer = None
    try:
        yield
    finally:
        if mixer is not None:
            model.mixer = mixer


def _partners(inputs: Tensor, targets: Tensor, partners: Partners) -> tuple[Tensor, Tensor]:
    if isinstance(partners, Tensor):
        return inputs[partners], targets[partners]
    return partners


def _is_shared(lam: Tensor) -> bool:
    """Whether `draw_lambda` gave one number for the whole batch."""
    return lam.stride(0) == 0 or len(lam) == 1
