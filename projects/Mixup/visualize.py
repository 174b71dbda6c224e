#!/usr/bin/env python
"""Look at this project's data, inputs and answers: visualize.py COMMAND …."""

import sys

import mixup  # noqa: F401 (registers the project's meta-architectures and config keys)

from seriatim.visualization.cli import main

if __name__ == "__main__":
    sys.exit(main())
