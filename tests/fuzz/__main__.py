"""`python -m tests.fuzz`: damage datasets of every format, convert them, and use COCO files.

The exit code is 1 if a fault was found. A case is repeated by `--formats NAME --only SEED`, or by
`--tools NAME --only SEED`.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from dataset_tools.formats import NAMES
from tests.fuzz.fixtures import Fixture, make_fixtures
from tests.fuzz.tools import COMMANDS, make_tool_fixtures
from tests.fuzz.trial import Trial, run_trial

MEMORY = 8 * 2**30  # bytes of address space: a bomb is to burst here, not in the machine


def main() -> int:
    """Try and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    add = parser.add_argument
    add("--cases", type=int, default=200, help="of each format and tool (default: %(default)s)")
    add("--seed", default="0", help="another seed, other cases")
    add("--formats", nargs="+", choices=NAMES, metavar="NAME", help="these only, and no tools")
    add("--tools", nargs="*", choices=COMMANDS, metavar="NAME", help="these only (default: all)")
    add("--harvest", action="store_true", help="damage all that the readers' own tests read, too")
    add("--only", metavar="SEED", help="one case again, as a fault names it")
    add("--minutes", type=float, help="stop after about that long")
    args = parser.parse_args()
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")  # of huge pictures: whether they are refused is what counts
    counts: Counter[str] = Counter()
    faults: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder:
        by_format: dict[str, list[Fixture]] = {}
        fixtures = []
        if args.formats or args.tools is None:
            fixtures += make_fixtures(Path(folder), args.formats or tuple(NAMES), args.harvest)
        if not args.formats:
            fixtures += make_tool_fixtures(Path(folder), args.tools or tuple(COMMANDS))
        for fixture in fixtures:
            by_format.setdefault(fixture.format, []).append(fixture)
        started = time.monotonic()
        for number in range(args.cases):
            if args.minutes and time.monotonic() - started > 60 * args.minutes:
                break
            for name, fixtures in by_format.items():
                seed = args.only or f"{args.seed}/{name}/{number}"
                fixture = fixtures[int(seed.rpartition("/")[2]) % len(fixtures)]
                trial = run_trial(fixture, seed, Path(folder) / "case")
                shutil.rmtree(Path(folder) / "case")
                counts[trial.outcome or "fault"] += 1
                if trial.faults:
                    faults.append(trial)
                    print(trial, flush=True)
            if args.only:
                break
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.most_common())
    seconds = time.monotonic() - started
    print(
        f"{counts.total():,} cases of {len(by_format)} formats and tools in {seconds:.0f} s: {told}"
    )
    print(f"{len(faults):,} with faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
