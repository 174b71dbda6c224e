"""Which Detectron2 the tests run on: what only one of the two can do is skipped on the other."""

import pytest
from detectron2 import _C

IS_MENDED = not _C.__file__.endswith((".so", ".pyd"))

mended_only = pytest.mark.skipif(
    not IS_MENDED, reason="the compiled extension does not have this on the CPU"
)


def without_deprecated_calls():
    """Marks of a test module: the mended version may call nothing that is deprecated."""
    if not IS_MENDED:
        return []
    filters = [
        "error::DeprecationWarning",
        "error::FutureWarning",
        # pycocotools' own, at every decoding of a mask.
        "ignore:__array__ implementation:DeprecationWarning:pycocotools",
    ]
    return [pytest.mark.filterwarnings(*filters)]
