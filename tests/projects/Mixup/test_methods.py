"""The methods' losses beside walks through the papers' algorithms, image by image."""

from __future__ import annotations

import math

import mixup  # noqa: F401 (registers the meta-architectures)
import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ShapeSpec, build_model
from detectron2.utils.events import EventStorage
from mixup.functions import ramp_up
from torch import nn
from torch.nn import functional as F

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.modeling.mixing import draw_lambda, draw_partners

CLASSES, LABELLED, UNLABELLED, SIDE = 4, 12, 28, 4


@BACKBONE_REGISTRY.register()
class TwoStages(Backbone):
    """No batch norm: images do not meet but where they are mixed."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.Conv2d(3, 5, 3), nn.Sequential(nn.Tanh(), nn.Conv2d(5, 6, 2))]
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return {"last": x.tanh()}

    def output_shape(self):
        return {"last": ShapeSpec(channels=6, stride=1)}


@BACKBONE_REGISTRY.register()
class WithBatchNorm(TwoStages):
    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self.blocks.append(nn.BatchNorm2d(6))


def build(architecture: str, backbone: str = "TwoStages", **changes):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME = architecture, backbone
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = CLASSES
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0] * 3, [60.0] * 3
    cfg.SOLVER.MAX_ITER = 100
    cfg.MIXUP.WEIGHT, cfg.MIXUP.RAMP_SHARE = 3.0, 0.5
    cfg.merge_from_list([part for k, v in changes.items() for part in (k.replace("__", "."), v)])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    nn.init.normal_(model.classifier.weight)  # guesses that differ
    return model


def batch(views: int = 0):
    generator = torch.Generator().manual_seed(1)

    def image():
        return torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)

    labelled = [{"image": image(), "label": n % CLASSES} for n in range(LABELLED)]
    return labelled + [
        {"image": image(), "label": -1, "views": [image() for _ in range(views)]}
        for _ in range(UNLABELLED)
    ]


def run(model, inputs, seed: int = 5):
    """(losses, what the event storage got) of a step at a seed."""
    torch.manual_seed(seed)
    with EventStorage() as storage:
        losses = model(inputs)
    return losses, {name: value for name, (value, _) in storage.latest().items()}


# The twins call the network for single images only, and mix numbers.


def look(network, image, mix_at=None, other=None, lam=1.0):
    """Logits of one image, blended with `other` before block `mix_at` (0: the image)."""
    a, b = image[None], None if other is None else other[None]
    for number, block in enumerate(network.backbone.blocks):
        if mix_at == number:
            a, b = lam * a + (1 - lam) * b, None
        a = block(a)
        b = None if b is None else block(b)
    return network.classifier(a.tanh().mean((2, 3)))[0]


def normal(item):
    return (item["image"].float() - 120) / 60


def one_hot(label):
    return [float(c == label) for c in range(CLASSES)]


def cross_entropy(z, target):
    return -sum(t * p for t, p in zip(target, F.log_softmax(z, 0), strict=True))


def squares(z, target):
    return sum((p - t) ** 2 for p, t in zip(F.softmax(z, 0), target, strict=True))


def blended(a, b, lam):
    return [lam * x + (1 - lam) * y for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.parametrize("mix", ["mixup", "manifold"])
def test_interpolation_consistency(mix, kind, decay):
    model = build(
        "ICTClassifier",
        SERIATIM__MIX__NAME=mix,
        SERIATIM__MIX__ALPHA=0.7,
        SERIATIM__MIX__LAYERS=(0, 1),
        MIXUP__ALPHA_U=2.0,
        MIXUP__CONSISTENCY=kind,
        MIXUP__TEACHER_DECAY=decay,
    )
    model.steps = 20
    inputs = batch()
    if decay:  # a teacher that is somewhere else
        with torch.no_grad():
            for parameter in model.teacher.parameters():
                parameter.mul_(0.5)
    losses, told = run(model, inputs)

    torch.manual_seed(5)
    guesser = model.teacher if decay else model
    guesses = [look(guesser, normal(i)).softmax(0).tolist() for i in inputs[LABELLED:]]
    compared = []
    for alpha, items, targets, compare in (
        (0.7, inputs[:LABELLED], [one_hot(i["label"]) for i in inputs[:LABELLED]], cross_entropy),
        (2.0, inputs[LABELLED:], guesses, squares if kind == "mse" else cross_entropy),
    ):
        lam = draw_lambda(alpha, len(items))[0].item()
        partners = draw_partners(len(items)).tolist()
        layer = (0, 1)[int(torch.randint(2, ()))] if mix == "manifold" else 0
        total = 0.0
        for i, j in enumerate(partners):
            z = look(model, normal(items[i]), layer, normal(items[j]), lam)
            total = total + compare(z, blended(targets[i], targets[j], lam))
        divisor = len(items) * (CLASSES if compare is squares else 1)
        compared.append(total / divisor)
    weight = 3.0 * math.exp(-5 * (1 - 20 / 50) ** 2)
    torch.testing.assert_close(losses["loss_cls"], compared[0])
    torch.testing.assert_close(losses["loss_unlabelled"], weight * compared[1])
    assert told["guess/weight"] == pytest.approx(weight)
    largest = [max(guess) for guess in guesses]
    assert told["guess/confidence"] == pytest.approx(sum(largest) / UNLABELLED, rel=1e-5)


def test_mixmatch():
    model = build(
        "MixMatchClassifier", MIXUP__ALPHA_U=0.75, MIXUP__TEACHER_DECAY=0.0, MIXUP__RAMP="linear"
    )
    model.steps = 20
    inputs = batch(views=1)
    losses, _ = run(model, inputs)

    torch.manual_seed(5)
    images = [normal(item) for item in inputs]
    images += [normal({"image": item["views"][0]}) for item in inputs[LABELLED:]]
    guesses = []
    for item in inputs[LABELLED:]:
        views = [normal(item), normal({"image": item["views"][0]})]
        first, second = (look(model, view).softmax(0).tolist() for view in views)
        squared = [((a + b) / 2) ** 2 for a, b in zip(first, second, strict=True)]
        guesses.append([s / sum(squared) for s in squared])
    targets = [one_hot(item["label"]) for item in inputs[:LABELLED]] + 2 * guesses
    lam = [max(v, 1 - v) for v in draw_lambda(0.75, len(images), True).tolist()]
    partners = draw_partners(len(images)).tolist()
    supervised = unsupervised = 0.0
    for i, j in enumerate(partners):
        z = look(model, images[i], 0, images[j], lam[i])
        target = blended(targets[i], targets[j], lam[i])
        if i < LABELLED:
            supervised = supervised + cross_entropy(z, target) / LABELLED
        else:
            unsupervised = unsupervised + squares(z, target) / (2 * UNLABELLED * CLASSES)
    torch.testing.assert_close(losses["loss_cls"], supervised)
    torch.testing.assert_close(losses["loss_unlabelled"], 3.0 * 20 / 50 * unsupervised)


def test_fixmatch():
    model = build(
        "FixMatchClassifier",
        MIXUP__THRESHOLD=0.5,
        MIXUP__TEACHER_DECAY=0.0,
        MIXUP__RAMP_SHARE=0.0,
    )
    inputs = batch(views=1)
    losses, told = run(model, inputs)
    supervised = unsupervised = 0.0
    kept = 0
    for item in inputs:
        if item["label"] >= 0:
            supervised = supervised + cross_entropy(
                look(model, normal(item)), one_hot(item["label"])
            )
            continue
        guess = look(model, normal(item)).softmax(0).tolist()
        if max(guess) >= 0.5:
            kept += 1
            z = look(model, normal({"image": item["views"][0]}))
            unsupervised = unsupervised + cross_entropy(z, one_hot(guess.index(max(guess))))
    assert 0 < kept < UNLABELLED
    assert told["guess/kept"] == pytest.approx(kept / UNLABELLED)
    torch.testing.assert_close(losses["loss_cls"], supervised / LABELLED)
    torch.testing.assert_close(losses["loss_unlabelled"], 3.0 * unsupervised / UNLABELLED)


NAMES = ("ICTClassifier", "MixMatchClassifier", "FixMatchClassifier")


@pytest.mark.parametrize("name", NAMES)
def test_guesses_have_no_gradient_and_leave_running_statistics_alone(name):
    model = build(name, "WithBatchNorm", MIXUP__TEACHER_DECAY=0.0)
    norm = model.backbone.blocks[-1]
    before = [buffer.clone() for buffer in norm.buffers()]
    guess = model.guess(torch.randn(9, 3, SIDE, SIDE))
    assert not guess.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))
    run(model, batch(views=1))
    assert not torch.equal(before[0], norm.running_mean)


@pytest.mark.parametrize("name", NAMES)
def test_without_unlabelled_images_and_in_debugging_it_is_a_classifier(name):
    plain = build("ImageClassifier")
    for model, inputs in (
        (build(name), batch()[:LABELLED]),
        (build(name, SERIATIM__DETERMINISTIC_DEBUG=True), batch(views=1)),
    ):
        losses, told = run(model, inputs)
        assert list(losses) == ["loss_cls"] and not told
        # A teacher draws no numbers, so that the weights are the same.
        torch.testing.assert_close(losses, run(plain, batch()[:LABELLED])[0])
    model.eval()
    assert "scores" in model(inputs)[0]


def test_the_teacher_is_the_mean_and_then_the_moving_average_of_the_weights():
    model = build("ICTClassifier", MIXUP__TEACHER_DECAY=0.75)
    weights, averages = [], []
    with torch.no_grad():
        for value in (1.0, 5.0, 2.0, 8.0, 3.0, 7.0):
            model.classifier.bias.fill_(value)
            model.after_step()
            weights.append(value)
            averages.append(model.teacher.classifier.bias[0].item())
    expected = [sum(weights[:n]) / n for n in range(1, 5)]
    for value in weights[4:]:
        expected.append(0.75 * expected[-1] + 0.25 * value)
    assert averages == pytest.approx(expected)
    assert model.steps == 6
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert any(name.startswith("teacher.") for name in model.state_dict())


def test_the_teacher_starts_as_the_weights_that_were_loaded():
    model = build("ICTClassifier", SERIATIM__MIX__NAME="mixup")
    own = build("ICTClassifier", SERIATIM__MIX__NAME="mixup", MIXUP__TEACHER_DECAY=0.0)
    for each in (model, own):
        nn.init.ones_(each.classifier.weight[:1])
    torch.testing.assert_close(run(model, batch())[0], run(own, batch())[0])


def test_the_ramp_is_a_share_of_the_steps():
    model = build("ICTClassifier", SOLVER__MAX_ITER=400, MIXUP__RAMP_SHARE=0.25)
    for model.steps in (0, 50, 100, 300):
        _, told = run(model, batch())
        assert told["guess/weight"] == pytest.approx(3.0 * ramp_up(model.steps, 100))


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("ICTClassifier", {"MIXUP__TEACHER_DECAY": 1.0}, "TEACHER_DECAY"),
        ("ICTClassifier", {"MIXUP__CONSISTENCY": "kl"}, "kl"),
        ("ICTClassifier", {"MIXUP__RAMP": "cosine"}, "cosine"),
        ("ICTClassifier", {"SERIATIM__MIX__NAME": "manifold", "SERIATIM__MIX__LAYERS": (9,)}, "9"),
        ("MixMatchClassifier", {"SERIATIM__MIX__NAME": "mixup"}, "by itself"),
    ],
)
def test_what_does_not_go_together_is_told(name, changes, word):
    with pytest.raises(InputError, match=word):
        build(name, **changes)


def test_fixmatch_without_a_strong_view_is_told():
    with pytest.raises(InputError, match="VIEWS"):
        run(build("FixMatchClassifier"), batch())
