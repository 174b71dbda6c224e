"""Draw loss, AP and learning rate over the steps of training, of one run or several."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """\
examples:
  visualize.py curves output/demo
  visualize.py curves output/a output/b/metrics.json -o curves.svg
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="an OUTPUT_DIR, or a metrics.json"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=".png, .svg or .pdf (default: curves.png in the first run's folder)",
    )
    parser.add_argument("--show", action="store_true", help="also open a window")


def run(args: argparse.Namespace) -> int:
    from dataset_tools.errors import InputError
    from seriatim.visualization.curves import draw_curves, read_metrics
    from seriatim.visualization.window import check_window, show_files

    if args.show:
        check_window()
    first = args.runs[0]
    output = args.output or (first if first.is_dir() else first.parent) / "curves.png"
    if output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"{output}: curves are written as .png, .svg or .pdf.")
    names = _names(args.runs)
    runs = {name: read_metrics(path) for name, path in zip(names, args.runs, strict=True)}
    for name, metrics in runs.items():
        last = max(series.steps[-1] for series in metrics.values())
        print(f"{name}: {len(metrics)} metrics up to step {last}")
    print(f"\nWritten:\n  {draw_curves(runs, output)}")
    if args.show and output.suffix.lower() == ".png":
        show_files([output])
    return 0


def _names(runs: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    folders = [(path if path.is_dir() else path.parent).resolve().parts for path in runs]
    for length in range(1, max(map(len, folders)) + 1):
        names = ["/".join(parts[-length:]) for parts in folders]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in runs]
