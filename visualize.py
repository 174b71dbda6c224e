#!/usr/bin/env python
"""Look at data, at what the network gets, and at what it says: visualize.py COMMAND …."""

import sys

from seriatim.visualization.cli import main

if __name__ == "__main__":
    sys.exit(main())
