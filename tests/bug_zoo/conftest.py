"""Cases follow each other in one process here: each registers its datasets under the same names."""

import pytest

from seriatim.data import catalog


@pytest.fixture(autouse=True)
def no_datasets_left():
    before = set(catalog._registered)
    yield
    catalog.unregister_datasets(set(catalog._registered) - before)
