"""Deformable convolution, versions 1 and 2, through torchvision's operator and autograd.

The functions write into tensors that the caller has allocated, as the compiled extension does. The
buffers and the im2col step, which are that one's working memory, are accepted and not used.
"""

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> int:
    """Deformable convolution (arXiv 1703.06211) of `input` into `output`; gives 1."""
    geometry = {"stride": (dH, dW), "padding": (padH, padW), "dilation": (dilationH, dilationW)}
    with torch.no_grad():
        output.copy_(deform_conv2d(input, offset, weight, **geometry))
    return 1


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> int:
    """Gradients of the input and of the offsets, into `gradInput` and `gradOffset`; gives 1."""
    geometry = {"stride": (dH, dW), "padding": (padH, padW), "dilation": (dilationH, dilationW)}
    grads = _gradients(
        gradOutput, (input, offset), lambda x, o: deform_conv2d(x, o, weight, **geometry)
    )
    for target, grad in zip((gradInput, gradOffset), grads, strict=True):
        target.copy_(grad)
    return 1


def deform_conv_backward_filter(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> int:
    """Gradient of the weight times `scale`, added to `gradWeight`; gives 1."""
    geometry = {"stride": (dH, dW), "padding": (padH, padW), "dilation": (dilationH, dilationW)}
    # Only its shape matters: the convolution is linear in the weight.
    weight = torch.zeros_like(gradWeight)
    (grad,) = _gradients(
        gradOutput, (weight,), lambda w: deform_conv2d(input, offset, w, **geometry)
    )
    gradWeight.add_(grad, alpha=scale)
    return 1


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution (arXiv 1811.11168) of `input` into `output`."""
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    with torch.no_grad():
        used_bias = bias if with_bias else None
        output.copy_(deform_conv2d(input, offset, weight, used_bias, *geometry, mask))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of all inputs, into the tensors `grad_*`; that of the bias only `with_bias`."""
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)

    def convolve(x: Tensor, o: Tensor, m: Tensor, w: Tensor) -> Tensor:
        return deform_conv2d(x, o, w, None, *geometry, m)

    grads = _gradients(grad_output, (input, offset, mask, weight), convolve)
    for target, grad in zip((grad_input, grad_offset, grad_mask, grad_weight), grads, strict=True):
        target.copy_(grad)
    if with_bias:
        grad_bias.copy_(grad_output.sum(dim=(0, 2, 3)))


def _gradients(grad_output: Tensor, inputs: tuple[Tensor, ...], function) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        return torch.autograd.grad(function(*leaves), leaves, grad_output)
