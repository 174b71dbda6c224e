"""The packaged weights are the right ones, in the right places."""

from pathlib import Path

import cv2
import matplotlib
import timm
import torch

from seriatim.modeling.backbone.lite0_weights import lite0_state_dict, load_lite0_weights

MILITARY_UNIFORM = 652  # ImageNet's class of the photograph of Rear Admiral Grace Hopper


def _photograph() -> torch.Tensor:
    """(1, 3, 224, 224) RGB 0–255: a photograph that matplotlib ships (public domain)."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)[22:534]
    image = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def test_every_weight_of_the_classifier_has_its_place():
    model = timm.create_model("tf_efficientnet_lite0")
    state = lite0_state_dict()
    assert set(state) == set(model.state_dict())
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_a_photograph_is_classified():
    model = timm.create_model("tf_efficientnet_lite0").eval()
    load_lite0_weights(model)
    with torch.no_grad():
        scores = model((_photograph() - 127) / 128).softmax(-1)[0]
        swapped = model((_photograph().flip(1) - 127) / 128).softmax(-1)[0]
    assert scores.argmax() == MILITARY_UNIFORM
    # The weights are for RGB: in BGR the same photograph is less certain.
    assert scores[MILITARY_UNIFORM] > swapped[MILITARY_UNIFORM] + 0.05


def test_feature_levels_equal_the_classifiers():
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    levels = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(4,)).eval()
    load_lite0_weights(whole)
    load_lite0_weights(levels)
    image = (_photograph() - 127) / 128
    with torch.no_grad():
        _, intermediates = whole.forward_intermediates(image, indices=[4])
        torch.testing.assert_close(levels(image)[0], intermediates[0])
