"""ImageClassifier: a backbone, its pooled features, one linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from dataset_tools.errors import InputError
from seriatim.modeling.classification_losses import ClassificationLoss, one_hot
from seriatim.modeling.initialisation import LayerStart, initialise, layer_starts
from seriatim.modeling.mixing import Mixer
from seriatim.modeling.whitening import build_whitening

# A last layer this small gives every class nearly the same score, whatever the features: ln C.
LAST_LAYER_STD = 0.01


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """Classifies whole images.

    Inputs are dicts with "image", (C, H, W) uint8 or float of 0–255, channels as INPUT.FORMAT has
    them, all of one size; for training also "label", int. In training the module gives
    {"loss_cls"}, in inference for each image {"scores": (K,) float32 probabilities, "logits": (K,),
    "classes": the numbers of the `top_k` most probable classes, the best first}.

    Attributes:
        mixer: how batches are mixed in training; None not at all. It may be set.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_feature: str = "",
        num_classes: int,
        loss: ClassificationLoss,
        dropout: float = 0.0,
        initialisation: str = "",
        mixer: Mixer | None = None,
        top_k: int = 5,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        whitening: nn.Module | None = None,
        input_format: str = "RGB",
    ) -> None:
        """
        Args:
            backbone: gives `in_feature`, (N, C, H, W), which is averaged over places, or (N, C).
            in_feature: "" for the backbone's last.
            num_classes: K.
            dropout: rate before the last layer.
            initialisation: of the backbone, see `initialise`; "" leaves it as it was built.
            pixel_mean, pixel_std: per channel, in the order `input_format`, 0–255.
            whitening: takes normalised images and is not trained.

        Raises:
            InputError: there is no such feature, initialisation or layer to mix at.
        """
        super().__init__()
        shapes = backbone.output_shape()
        self.in_feature = in_feature or list(shapes)[-1]
        if self.in_feature not in shapes:
            raise InputError(
                f"MODEL.CLASSIFIER.IN_FEATURE is {in_feature!r}, but the backbone gives"
                f" {', '.join(shapes)}."
            )
        self.backbone = backbone
        self.initialisation = initialisation
        if initialisation:
            initialise(backbone, initialisation)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.classifier = nn.Linear(shapes[self.in_feature].channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=LAST_LAYER_STD)
        nn.init.zeros_(self.classifier.bias)
        self.num_classes = num_classes
        self.loss = loss
        self.top_k = min(top_k, num_classes)
        self.input_format = input_format
        self.whitening = whitening or nn.Identity()
        self.mixer = mixer
        if mixer is not None:
            mixer.check_layers(self.blocks)
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options, mix = cfg.MODEL.CLASSIFIER, cfg.SERIATIM.MIX
        mixer = None
        if mix.NAME and not cfg.SERIATIM.DETERMINISTIC_DEBUG:
            mixer = Mixer(mix.NAME, mix.ALPHA, tuple(mix.LAYERS), mix.PER_SAMPLE)
        return {
            "backbone": build_backbone(cfg),
            "in_feature": options.IN_FEATURE,
            "num_classes": options.NUM_CLASSES,
            "loss": ClassificationLoss(
                options.LOSS,
                label_smoothing=options.LABEL_SMOOTHING,
                gamma=options.FOCAL_GAMMA,
                beta=options.CLASS_BALANCE,
                tau=options.LOGIT_ADJUSTMENT,
                class_counts=options.CLASS_COUNTS,
            ),
            "dropout": options.DROPOUT,
            "initialisation": options.INIT,
            "mixer": mixer,
            "top_k": options.TOP_K,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "whitening": build_whitening(cfg),
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def blocks(self) -> list[nn.Module]:
        """Module i takes what manifold mixup mixes at layer i: 0 the images, i > 0 the input of
        the backbone's stage i."""
        stages = getattr(self.backbone, "blocks", None) or getattr(self.backbone, "stages", ())
        return [self.backbone, *stages]

    def forward(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        images = self.pixels(batch)
        if not self.training:
            return self.inference(self.logits(images))
        logits, targets = self.mixed(images, self.targets(batch))
        return {"loss_cls": self.supervised_loss(logits, targets)}

    # What methods on top are built from

    def pixels(self, batch: Sequence[dict[str, Any]], key: str = "image") -> Tensor:
        """(B, C, H, W) float, normalised, of the images under `key`.

        Raises:
            InputError: they differ in size.
        """
        images = [item[key] for item in batch]
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            raise InputError(
                "A classifier takes images of one size in a batch, but there are"
                f" {' and '.join('×'.join(map(str, size)) for size in sorted(sizes)[:2])}. Crop or"
                " resize them to one size."
            )
        stacked = torch.stack(images).to(self.device, non_blocking=True)
        return self.whitening((stacked.float() - self.pixel_mean) / self.pixel_std)

    def targets(self, batch: Sequence[dict[str, Any]]) -> Tensor:
        """(B, K) float, one 1 in each row.

        Raises:
            InputError: a sample has no label, or one that is no class.
        """
        labels = torch.tensor([int(item["label"]) for item in batch])
        wrong = [int(n) for n in labels if not 0 <= n < self.num_classes]
        if wrong:
            raise InputError(
                f"A label of {wrong[0]} reached the classifier, which has {self.num_classes}"
                f" classes, 0 to {self.num_classes - 1}. If it is -1, a sample without a label: set"
                " SERIATIM.SEMI.UNLABELED_RATIO to 0, or take a method that learns from such."
                " Otherwise check the labels of DATASETS.TRAIN."
            )
        return one_hot(labels, self.num_classes).to(self.device)

    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images → (B, K)."""
        features = self.backbone(images)[self.in_feature]
        if features.ndim == 4:
            features = features.mean(dim=(2, 3))
        return self.classifier(self.dropout(features))

    def mixed(
        self,
        images: Tensor,
        targets: Tensor,
        others: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(logits, soft targets) of the batch as SERIATIM.MIX mixes it, with itself or `others`."""
        if self.mixer is None:
            return self.logits(images), targets
        return self.mixer(self.logits, self.blocks, images, targets, others)

    def supervised_loss(self, logits: Tensor, soft_targets: Tensor) -> Tensor:
        """The mean loss of (B, K) logits against (B, K) soft targets, which are smoothed first."""
        return self.loss(logits, soft_targets)

    def inference(self, logits: Tensor) -> list[dict[str, Tensor]]:
        """The outputs of evaluation mode, one for each row of `logits` (B, K)."""
        logits = logits.float()
        scores = logits.softmax(dim=-1)
        classes = scores.topk(self.top_k).indices
        return [
            {"scores": s, "logits": z, "classes": c}
            for s, z, c in zip(scores, logits, classes, strict=True)
        ]

    # What the gates ask

    def expected_initial_losses(
        self, batch: Sequence[dict[str, Any]]
    ) -> dict[str, tuple[float, float]]:
        """The loss of equal logits: ln K for cross entropy, (1 - 1/K)^γ ln K for the focal loss."""
        value = self.loss.of_equal_logits(self.targets(batch))
        return {"loss_cls": (value / 1.25, value * 1.25)}

    def initialisation_report(self) -> list[LayerStart]:
        """How each layer's weights start, beside what MODEL.CLASSIFIER.INIT should make of them."""
        return layer_starts(self.backbone, self.initialisation)
