"""`python -m tests.bug_zoo`: which planted bugs do the gates catch, and do they cry wolf?"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dataset_tools.errors import GateFailed, InputError, run
from dataset_tools.files import write_text
from tests.bug_zoo.report import PAGE, markdown, summary, table
from tests.bug_zoo.runner import all_cases, run_cases


def main() -> None:
    """Run the cases that are asked for; the page is written when all were run."""
    options = _parse()
    cases = [case for case in all_cases() if options.only.lower() in case.name.lower()]
    number, _, parts = options.part.partition("/")
    cases = cases[int(number) - 1 :: int(parts)]
    if not cases:
        raise InputError(f"No case of the zoo has {options.only!r} in its name.")
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    results = []
    # Without a thread of its own: cases run in forks of this process.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(cases))
        for result in run_cases(
            cases,
            slow=options.gates == "all",
            watch=options.watch,
            keep=options.keep,
            known=options.known,
        ):
            results.append(result)
            progress.update(task, advance=1, description=result.case.name[:40])
            progress.refresh()
    console.print(table(results))
    console.print(summary(results))
    if not options.only and options.part == "1/1":
        write_text(PAGE, markdown(results))
    if any(result.outcome["error"] for result in results):
        raise GateFailed("Some cases broke down instead of being answered: see the table.")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bug_zoo", description=__doc__)
    parser.add_argument("--only", default="", help="cases with this in their name; no page then")
    parser.add_argument(
        "--gates", choices=("fast", "all"), default="fast",
        help="fast: the gates of seconds; all: where these find nothing, the ones that train too",
    )  # fmt: skip
    parser.add_argument(
        "--watch", action="store_true", help="compare with watching the loss of a short training"
    )
    parser.add_argument(
        "--part",
        default="1/1",
        metavar="I/N",
        help="every N-th case from the I-th on; no page then",
    )
    parser.add_argument(
        "--known",
        action="store_true",
        help="run nothing: tell what the present sources have answered",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep results though the sources have changed"
    )
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(run(main))
