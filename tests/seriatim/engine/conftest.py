import logging

import pytest
import torch

from seriatim.engine.logs import LOGGERS, close_logging


@pytest.fixture(autouse=True)
def one_thread_and_clean_loggers():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    close_logging()
    for name in LOGGERS:
        logging.getLogger(name).propagate = True


@pytest.fixture
def config_file(tmp_path):
    from .support import write_config

    return write_config(tmp_path)
