"""The mixup family beside loops over samples and pixels, torchvision's own, and the theory of λ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torchvision.transforms import v2

from dataset_tools.errors import InputError
from seriatim.modeling import mixing
from seriatim.modeling.classification_losses import one_hot, soft_target_cross_entropy

SAMPLES, CLASSES = 40, 7


def batch(seed: int = 0, height: int = 9, width: int = 12):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(SAMPLES, 3, height, width, generator=generator)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return images, one_hot(labels, CLASSES)


def lambdas(seed: int = 1) -> torch.Tensor:
    return torch.rand(SAMPLES, generator=torch.Generator().manual_seed(seed))


def permutation(seed: int = 2) -> torch.Tensor:
    return torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(seed))


# Twins: forty samples, one by one


@pytest.mark.parametrize("second", [False, True])
def test_mixup_is_the_loop_over_samples(second):
    images, targets = batch()
    lam, order = lambdas(), permutation()
    others = batch(seed=5) if second else (images[order], targets[order])
    mixed, soft = mixing.mixup(images, targets, lam, others if second else order)
    for i in range(SAMPLES):
        share = float(lam[i])
        for got, mine, other in ((mixed, images, others[0]), (soft, targets, others[1])):
            wanted = share * mine[i].numpy() + (1 - share) * other[i].numpy()
            np.testing.assert_allclose(got[i].numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("second", [False, True])
def test_cutmix_is_the_loop_over_pixels(second):
    images, targets = batch()
    height, width = images.shape[-2:]
    lam, order = lambdas(), permutation()
    others = batch(seed=5) if second else (images[order], targets[order])
    torch.manual_seed(3)
    boxes = mixing.draw_boxes(lam, height, width)
    torch.manual_seed(3)
    mixed, soft = mixing.cutmix(images, targets, lam, others if second else order)
    for i in range(SAMPLES):
        x0, y0, x1, y1 = boxes[i].tolist()
        pasted = 0
        for y in range(height):
            for x in range(width):
                inside = x0 <= x < x1 and y0 <= y < y1
                pasted += inside
                source = others[0] if inside else images
                assert torch.equal(mixed[i, :, y, x], source[i, :, y, x])
        share = 1 - pasted / (height * width)
        wanted = share * targets[i].numpy() + (1 - share) * others[1][i].numpy()
        np.testing.assert_allclose(soft[i].numpy(), wanted, atol=1e-6)


class Net(nn.Module):
    """Two hidden layers that do not mix samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(4, 5, 3, stride=2), nn.Tanh())
        self.last = nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.last(self.second(self.first(x)).mean(dim=(2, 3)))

    @property
    def blocks(self):
        return [self, self.first, self.second, self.last]


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_manifold_mixup_is_the_loop_over_samples(layer, second):
    torch.manual_seed(0)
    net = Net().eval()
    images, targets = batch()
    lam, order = lambdas(), permutation()
    others = batch(seed=5) if second else (images[order], targets[order])
    outputs, soft = mixing.manifold_mixup(
        net, net.blocks[layer], images, targets, lam, others if second else order
    )

    def before(x):
        return [x, x, net.first(x), net.second(net.first(x)).mean(dim=(2, 3))][layer]

    def after(h):
        return [
            net, lambda h: net.last(net.second(net.first(h)).mean(dim=(2, 3))),
            lambda h: net.last(net.second(h).mean(dim=(2, 3))), net.last,
        ][layer](h)  # fmt: skip

    with torch.no_grad():
        for i in range(SAMPLES):
            share = float(lam[i])
            mine, other = before(images[i : i + 1]), before(others[0][i : i + 1])
            wanted = after(share * mine + (1 - share) * other)[0]
            torch.testing.assert_close(outputs[i].detach(), wanted, atol=1e-5, rtol=1e-5)
            mixed_target = share * targets[i] + (1 - share) * others[1][i]
            torch.testing.assert_close(soft[i], mixed_target)
    assert not net.first._forward_pre_hooks and not net._forward_pre_hooks


# torchvision's


def test_mixup_is_torchvisions_with_the_neighbour_as_partner():
    images, targets = batch()
    torch.manual_seed(4)
    wanted = v2.MixUp(alpha=0.7, num_classes=CLASSES)(images, targets.argmax(1))
    torch.manual_seed(4)
    lam = mixing.draw_lambda(0.7, SAMPLES)
    neighbour = torch.arange(SAMPLES).roll(1)
    got = mixing.mixup(images, targets, lam, neighbour)
    torch.testing.assert_close(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1])


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_is_torchvisions_with_the_neighbour_as_partner(seed):
    images, targets = batch(height=32, width=20)
    torch.manual_seed(seed)
    wanted = v2.CutMix(alpha=1.0, num_classes=CLASSES)(images, targets.argmax(1))
    torch.manual_seed(seed)
    lam = mixing.draw_lambda(1.0, SAMPLES)
    neighbour = torch.arange(SAMPLES).roll(1)
    got = mixing.cutmix(images, targets, lam, neighbour)
    assert torch.equal(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1])


# λ and partners


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
@pytest.mark.parametrize("per_sample", [False, True])
def test_lambda_follows_its_beta_distribution(alpha, per_sample):
    torch.manual_seed(0)
    if per_sample:
        drawn = mixing.draw_lambda(alpha, 4000, per_sample=True)
    else:
        drawn = torch.stack([mixing.draw_lambda(alpha, 3)[0] for _ in range(4000)])
    # At 0.2 a few draws are so close to 1 that float32 rounds them to 1: no matter for the test.
    p = stats.kstest(drawn.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue
    assert p > 0.01
    wrong = stats.kstest(drawn.double().numpy(), stats.beta(alpha, 1.3 * alpha).cdf).pvalue
    assert wrong < 1e-6  # the test sees an alpha that is off by a third


def test_one_lambda_for_a_batch_is_the_same_for_all_and_per_sample_differs():
    torch.manual_seed(0)
    assert len(set(mixing.draw_lambda(1.0, SAMPLES).tolist())) == 1
    assert len(set(mixing.draw_lambda(1.0, SAMPLES, per_sample=True).tolist())) == SAMPLES
    assert mixing.draw_lambda(0.0, 3).tolist() == [1.0] * 3


def test_partners_are_every_permutation_equally_often():
    torch.manual_seed(0)
    counts = {}
    for _ in range(6000):
        key = tuple(mixing.draw_partners(3).tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_the_area_of_an_unclipped_box_is_one_minus_lambda():
    lam = torch.tensor([0.75])
    boxes = torch.cat([mixing.draw_boxes(lam, 200, 100) for _ in range(300)])
    whole = boxes[(boxes[:, :2] > 0).all(1) & (boxes[:, 2] < 100) & (boxes[:, 3] < 200)]
    assert len(whole) > 50
    assert {(int(x1 - x0), int(y1 - y0)) for x0, y0, x1, y1 in whole.tolist()} == {(50, 100)}
    assert (boxes >= 0).all() and boxes[:, 2].max() <= 100 and boxes[:, 3].max() <= 200


def test_one_lambda_has_one_box_and_one_each_has_boxes_of_their_own():
    torch.manual_seed(0)
    shared = mixing.draw_boxes(mixing.draw_lambda(1.0, SAMPLES), 64, 64)
    assert len(set(map(tuple, shared.tolist()))) == 1
    own = mixing.draw_boxes(mixing.draw_lambda(1.0, SAMPLES, per_sample=True), 64, 64)
    assert len(set(map(tuple, own.tolist()))) > SAMPLES // 2


# Targets and the loss


@pytest.mark.parametrize("function", [mixing.mixup, mixing.cutmix])
def test_soft_targets_stay_probabilities(function):
    images, targets = batch()
    _, soft = function(images, targets, lambdas(), permutation())
    torch.testing.assert_close(soft.sum(1), torch.ones(SAMPLES))
    assert (soft >= 0).all()


def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses():
    images, targets = batch()
    logits = torch.randn(SAMPLES, CLASSES) * 5
    lam, order = lambdas(), permutation()
    _, soft = mixing.mixup(images, targets, lam, order)
    a, b = targets.argmax(1), targets[order].argmax(1)
    first = nn.functional.cross_entropy(logits, a, reduction="none")
    second = nn.functional.cross_entropy(logits, b, reduction="none")
    wanted = (lam * first + (1 - lam) * second).mean()
    torch.testing.assert_close(soft_target_cross_entropy(logits, soft), wanted)


# The mixer


def test_manifold_draws_every_layer_of_its_list_and_no_other():
    torch.manual_seed(0)
    net, seen = Net().eval(), set()
    images, targets = batch()
    mixer = mixing.Mixer("manifold", 1.0, (0, 2))
    changed = mixing.changed_input

    def watch(layer, change):
        seen.add(net.blocks.index(layer))
        return changed(layer, change)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "changed_input", watch)
        for _ in range(20):
            mixer(net, net.blocks, images, targets)
    assert seen == {0, 2}


@pytest.mark.parametrize("name", mixing.MIXINGS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_mixer_gives_outputs_and_soft_targets_and_depends_on_the_seed_alone(name, per_sample):
    net = Net().eval()
    images, targets = batch()
    mixer = mixing.Mixer(name, 1.0, (0, 1, 2), per_sample)

    def once(seed, others=None):
        torch.manual_seed(seed)
        return mixer(net, net.blocks, images, targets, others)

    outputs, soft = once(0)
    assert outputs.shape == soft.shape == (SAMPLES, CLASSES)
    assert torch.equal(outputs, once(0)[0]) and torch.equal(soft, once(0)[1])
    assert not torch.equal(soft, once(1)[1])
    others = batch(seed=9)
    assert once(0, others)[0].shape == (SAMPLES, CLASSES)


def test_a_gradient_reaches_both_samples_of_a_mixture():
    net = Net()
    images, targets = batch()
    images.requires_grad_()
    lam = torch.full((SAMPLES,), 0.3)
    order = torch.arange(SAMPLES).roll(1)
    outputs, _ = mixing.manifold_mixup(net, net.second, images, targets, lam, order)
    outputs[5].sum().backward()
    touched = images.grad.abs().sum(dim=(1, 2, 3)).nonzero().flatten().tolist()
    assert touched == [4, 5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("mixdown", 1.0), "SERIATIM.MIX.NAME"), (("mixup", 0.0), "ALPHA"),
     (("manifold", 1.0, ()), "LAYERS")],
)  # fmt: skip
def test_what_cannot_be_mixed_is_told(arguments, said):
    with pytest.raises(InputError, match=said):
        mixing.Mixer(*arguments)


def test_a_layer_that_the_network_does_not_have_is_told():
    with pytest.raises(InputError, match=r"layers 0 .* to 3"):
        mixing.Mixer("manifold", 1.0, (0, 4)).check_layers(Net().blocks)


def test_the_mean_of_lambda_is_a_half():
    torch.manual_seed(0)
    drawn = mixing.draw_lambda(0.4, 10_000, per_sample=True)
    assert abs(float(drawn.mean()) - 0.5) < 4 * math.sqrt(0.25 / 1.8 / 10_000)
