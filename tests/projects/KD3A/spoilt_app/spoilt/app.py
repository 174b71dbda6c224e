"""Parties that do, in the rounds that a file in their folder names, what broken ones do.

The file `faults.json` beside a party's config is {"ROUND": "FAULT"}. A party that is asked to train
leaves a file `training-ROUND`; by the fault "wait" it does nothing until there is a file `go`.

Flower asks for every tensor by itself, a dozen times on its way from party to party: the network
here has few.
"""

import json
import time
from pathlib import Path

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from kd3a.client_app import build_client_app
from kd3a.deploy import _find_party, server_app
from kd3a.messages import TRAIN, Work, answer, read
from torch import nn

__all__ = ["client_app", "server_app"]


@BACKBONE_REGISTRY.register()
class TinyBackbone(Backbone):
    """A convolution with BatchNorm, and the means of the 16 parts of an image."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(input_shape.channels, 8, kernel_size=5, stride=4, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )

    def forward(self, images):
        return {"features": self.layers(images)}

    def output_shape(self):
        return {"features": ShapeSpec(channels=8 * 16)}


def break_as_told(message, context, call_next):
    if message.metadata.message_type != TRAIN:
        return call_next(message, context)
    folder = Path(str(context.node_config["config"])).parent
    number = read(message).round
    (folder / f"training-{number}").touch()
    faults = folder / "faults.json"
    told = json.loads(faults.read_text()) if faults.exists() else {}
    fault = told.get(str(number), "")
    if fault == "wait":
        _wait_for(folder / "go")
    reply = call_next(message, context)
    return answer(message, spoilt(read(reply), fault)) if fault in SPOILT else reply


def _wait_for(path, seconds=900):
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.1)


def spoilt(work, fault):
    return Work(**{**vars(work), **SPOILT[fault](work)})


def _nan(work):
    name = "classifier.weight"
    return {"weights": {**work.weights, name: torch.full_like(work.weights[name], torch.nan)}}


def _shape(work):
    return {"weights": {**work.weights, "classifier.bias": torch.zeros(3)}}


SPOILT = {
    "NaN": _nan,
    "another shape": _shape,
    "an empty update": lambda work: {"weights": {}},
    "another round": lambda work: {"round": work.round - 1},
}

client_app = build_client_app(_find_party, [break_as_told])
