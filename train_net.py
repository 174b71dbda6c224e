#!/usr/bin/env python
"""Train or evaluate the model that a config describes: train_net.py --config-file FILE."""

import sys

from dataset_tools.errors import run
from seriatim.engine.arguments import parse_arguments


def main() -> int:
    args = parse_arguments()
    from seriatim.engine.run import start

    return start(args)


if __name__ == "__main__":
    sys.exit(run(main))
