from __future__ import annotations

import pytest
from kd3a.local import server_identity


@pytest.fixture(autouse=True)
def _identity():
    """Flower sets it in the process of a ServerApp; messages are addressed from it."""
    with server_identity():
        yield
