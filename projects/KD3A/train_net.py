#!/usr/bin/env python
"""Train a federation on this machine: train_net.py --config-file FILE [KEY VALUE ...]."""

import sys

import kd3a  # noqa: F401 (registers the project's keys, meta-architecture and backbones)
from kd3a.command import main

from dataset_tools.errors import run

if __name__ == "__main__":
    sys.exit(run(main))
