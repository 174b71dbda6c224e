"""Which Detectron2 the tests run on: what only one of the two can do is skipped on the other."""

import pytest
from detectron2 import _C

IS_MENDED = not _C.__file__.endswith((".so", ".pyd"))

mended_only = pytest.mark.skipif(
    not IS_MENDED, reason="the compiled extension has no deformable convolution on the CPU"
)
