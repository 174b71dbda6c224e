"""Any timm classifier up to its pooled features, as a Detectron2 backbone."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from dataset_tools.errors import InputError
from seriatim.modeling.backbone.timm_backbone import create, replace_norm


class TimmClassifierBackbone(Backbone):
    """Input: (N, C, H, W) float. Output: {"pooled": (N, channels)}, by the model's own pooling.

    Attributes:
        blocks: the modules that timm names as the model's levels, but for its stem; () if it names
            none. A module that is no convolution, linear layer or container of them is no level.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        weights: str = "",
        norm: str = "",
        drop_path: float = 0.0,
    ) -> None:
        """
        Args:
            name: a model of `timm.list_models()`.
            weights: "", "package" or a file (see MODEL.TIMM.WEIGHTS).
            norm: "", "FrozenBN" or "GN".
            drop_path: stochastic depth rate.

        Raises:
            InputError: timm has no such model, cannot build it so, or the weights do not fit.
        """
        super().__init__()
        options = {"drop_path_rate": drop_path} if drop_path else {}
        self.model = create(name, num_classes=0, in_chans=in_channels, weights=weights, **options)
        self.model = replace_norm(self.model, norm)
        channels = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        self._out_features = ["pooled"]
        self._out_feature_channels = {"pooled": channels}
        self._out_feature_strides = {"pooled": None}

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        levels = getattr(self.model, "feature_info", None) or ()
        names = dict.fromkeys(level["module"] for level in levels)
        found = [self.model.get_submodule(n) for n in names if n and "stem" not in n]
        return tuple(module for module in found if _computes(module))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pooled": self.model(x)}


def _computes(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())


@BACKBONE_REGISTRY.register()
def build_timm_classifier_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmClassifierBackbone:
    """MODEL.TIMM as a whole classifier without its last layer."""
    options = cfg.MODEL.TIMM
    if options.FREEZE_AT > 0:
        raise InputError(
            f"MODEL.TIMM.FREEZE_AT is {options.FREEZE_AT}, but a classifier's backbone is trained"
            " whole. Set it to 0; SERIATIM.SOLVER.BACKBONE_MULTIPLIER slows its training down."
        )
    return TimmClassifierBackbone(
        options.NAME,
        in_channels=input_shape.channels,
        weights=options.WEIGHTS,
        norm=options.NORM,
        drop_path=options.DROP_PATH,
    )
