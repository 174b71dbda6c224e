"""`python -m seriatim.gates --config-file FILE`: the gates alone, without training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dataset_tools import errors

EXAMPLES = """\
examples:
  python -m seriatim.gates --config-file configs/BCCD-TaskAligned.yaml
  python -m seriatim.gates --config-file FILE --gates all
  python -m seriatim.gates --config-file FILE --gates oracle,inputs --fresh
  python -m seriatim.gates --config-file FILE --trainer my_project/train.py:MyTrainer

The exit code is 3 if a gate failed. Evidence is in OUTPUT_DIR/gates, with a page index.html.
"""


def main() -> int:
    args = build_parser().parse_args()
    from seriatim.engine.setup import setup
    from seriatim.gates.entry import pass_gates

    if args.trainer:
        from seriatim.gates.project import trainer_named

        trainer = trainer_named(args.trainer)  # first: its modules may register what configs name
    else:
        trainer = None
    cfg = setup(args)
    pass_gates(cfg, args.gates, trainer_class=trainer, fresh=args.fresh)
    print(f"evidence: {Path(cfg.OUTPUT_DIR) / 'gates' / 'index.html'}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m seriatim.gates`."""
    from seriatim.engine.arguments import add_gates_argument

    parser = argparse.ArgumentParser(
        prog="python -m seriatim.gates",
        description="Look for silent faults in the pipeline that a config describes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="as train_net.py takes it")
    add_gates_argument(parser)
    add(
        "--trainer",
        metavar="MODULE:CLASS",
        help="your project's trainer (or FILE.py:CLASS), whose build_* methods make the parts",
    )
    add("--fresh", action="store_true", help="ask again even where nothing has changed")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    return parser


if __name__ == "__main__":
    sys.exit(errors.run(main))
