#!/usr/bin/env python
"""Train or evaluate a classifier, also with unlabelled images: train_net.py --config-file FILE."""

import sys

import mixup  # noqa: F401 (registers the project's meta-architectures and config keys)

from dataset_tools.errors import run
from seriatim.engine.arguments import parse_arguments
from seriatim.engine.run import start

if __name__ == "__main__":
    sys.exit(run(lambda: start(parse_arguments())))
