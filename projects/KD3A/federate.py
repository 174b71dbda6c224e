#!/usr/bin/env python
"""A federation of processes or hosts: federate.py coordinator | party | demo; see --help."""

import sys

import kd3a  # noqa: F401 (registers the project's keys, meta-architecture and backbones)
from kd3a.federate import main

from dataset_tools.errors import run

if __name__ == "__main__":
    sys.exit(run(main))
