"""`detectron2._C` without a compiler: the same functions on PyTorch's own operators.

Same names, same argument orders, same results as the compiled extension, on every device that
PyTorch runs on. Importing this module also registers the operators `torch.ops.detectron2.*`,
through which Detectron2 reaches the rotated operations.
"""

import torch

from .cocoeval import (
    COCOevalAccumulate,
    COCOevalEvaluateImages,
    ImageEvaluation,
    InstanceAnnotation,
)
from .deformable import (
    deform_conv_backward_filter,
    deform_conv_backward_input,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .roi_align_rotated import roi_align_rotated_backward, roi_align_rotated_forward
from .rotated_boxes import box_iou_rotated, nms_rotated

__all__ = [
    "COCOevalAccumulate",
    "COCOevalEvaluateImages",
    "ImageEvaluation",
    "InstanceAnnotation",
    "box_iou_rotated",
    "deform_conv_backward_filter",
    "deform_conv_backward_input",
    "deform_conv_forward",
    "get_compiler_version",
    "get_cuda_version",
    "has_cuda",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "nms_rotated",
    "roi_align_rotated_backward",
    "roi_align_rotated_forward",
]


def get_compiler_version() -> str:
    """What compiled this module: nothing."""
    return "none (pure Python)"


def get_cuda_version() -> str:
    """The CUDA version that PyTorch, which does all the work here, was built with."""
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "not available"


def has_cuda() -> bool:
    """False: this module carries no CUDA code of its own."""
    return False


_ROI_ALIGN_SIZES = "float spatial_scale, int pooled_height, int pooled_width"
_OPERATORS = {
    "nms_rotated(Tensor dets, Tensor scores, float iou_threshold) -> Tensor": nms_rotated,
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor": box_iou_rotated,
    f"roi_align_rotated_forward(Tensor input, Tensor rois, {_ROI_ALIGN_SIZES},"
    " int sampling_ratio) -> Tensor": roi_align_rotated_forward,
    f"roi_align_rotated_backward(Tensor grad, Tensor rois, {_ROI_ALIGN_SIZES},"
    " int batch_size, int channels, int height, int width, int sampling_ratio)"
    " -> Tensor": roi_align_rotated_backward,
}

# The library unregisters its operators when it is collected, hence a name in this module.
_library = torch.library.Library("detectron2", "DEF")
for _schema, _function in _OPERATORS.items():
    _library.define(_schema)
    # Composed of differentiable operators: autograd and every device follow from theirs.
    _library.impl(_schema.split("(")[0], _function, "CompositeImplicitAutograd")
