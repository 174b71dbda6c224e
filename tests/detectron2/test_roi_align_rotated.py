"""Rotated ROIAlign against torchvision, turned feature maps and finite differences."""

import pytest
import torch
from detectron2.layers import ROIAlignRotated, roi_align
from detectron2.layers.roi_align_rotated import roi_align_rotated

from .flavour import mended_only


def _feature(channels=3, height=12, width=17, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)


# Image, x centre, y centre, width, height, angle; the last two reach over the edge of the map.
ROIS = torch.tensor(
    [
        [0, 15.0, 10.0, 12.0, 9.0, 0.0],
        [1, 16.0, 11.0, 20.0, 5.0, 35.0],
        [0, 9.0, 8.0, 3.0, 16.0, -110.0],
        [1, 2.0, 20.0, 14.0, 14.0, 45.0],
        [0, 33.0, 1.0, 10.0, 6.0, 181.0],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_equals_roi_align_at_angle_zero(sampling_ratio):
    rois = ROIS * torch.tensor([1, 1, 1, 1, 1, 0])
    centre, size = rois[:, 1:3], rois[:, 3:5]
    upright = torch.cat([rois[:, :1], centre - size / 2, centre + size / 2], dim=1)
    ours = roi_align_rotated(_feature(), rois, (5, 4), 0.5, sampling_ratio)
    theirs = roi_align(_feature(), upright, (5, 4), 0.5, sampling_ratio, True)
    torch.testing.assert_close(ours, theirs)


def test_a_turned_box_reads_what_an_upright_box_reads_from_the_turned_map():
    feature = _feature(height=16, width=16)
    box = torch.tensor([[0, 9.0, 6.0, 8.0, 4.0, 90.0]], dtype=torch.float64)
    # Turning the map clockwise by 90 degrees takes the point (x, y) to (16 - y, x).
    turned_box = torch.tensor([[0, 10.0, 9.0, 8.0, 4.0, 0.0]], dtype=torch.float64)
    turned = torch.rot90(feature, -1, dims=(2, 3))
    ours = roi_align_rotated(feature, box, (4, 8), 1.0, 2)
    upright = roi_align_rotated(turned, turned_box, (4, 8), 1.0, 2)
    torch.testing.assert_close(ours, upright)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradient_equals_finite_differences(sampling_ratio):
    feature = _feature(channels=2, height=6, width=7).requires_grad_()
    rois = ROIS * torch.tensor([1, 0.4, 0.4, 0.4, 0.4, 1])
    assert torch.autograd.gradcheck(
        lambda x: roi_align_rotated(x, rois, (3, 2), 0.5, sampling_ratio), (feature,)
    )


def test_module_keeps_the_dtype_and_takes_no_boxes():
    pooler = ROIAlignRotated((7, 7), 0.25, 0)
    feature = _feature().float()
    exact = pooler(feature, ROIS.float())
    half = pooler(feature.half(), ROIS.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=2e-2, rtol=0)
    assert pooler(feature, ROIS[:0].float()).shape == (0, 3, 7, 7)


@mended_only
def test_a_map_that_no_box_reads_has_a_gradient_of_zeros():
    maps = torch.rand(1, 2, 6, 5, requires_grad=True)
    pooled = ROIAlignRotated((3, 3), 1.0, 2)(maps, torch.zeros(0, 6))
    (pooled.sum() + maps.sum()).backward()
    assert torch.equal(maps.grad, torch.ones_like(maps))


@mended_only
def test_the_operator_itself_is_differentiable():
    feature = _feature().requires_grad_()
    torch.ops.detectron2.roi_align_rotated_forward(feature, ROIS, 0.5, 2, 2, 1).sum().backward()
    assert feature.grad.abs().sum() > 0
