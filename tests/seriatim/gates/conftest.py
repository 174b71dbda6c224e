import pytest
import torch

from seriatim.data import catalog


@pytest.fixture(autouse=True)
def one_thread_and_no_datasets_left():
    threads, before = torch.get_num_threads(), set(catalog._registered)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    catalog.unregister_datasets(set(catalog._registered) - before)
