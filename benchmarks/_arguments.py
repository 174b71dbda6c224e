"""The arguments that the benchmarks of made-up data have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def scaled(description: str | None) -> argparse.ArgumentParser:
    """A parser with --scale, --repeat and --folder."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1, help="share of the full size")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to make the data for the time being")
    return parser
