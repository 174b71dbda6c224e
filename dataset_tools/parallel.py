"""Work on many items in several processes, with results in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Starting the processes takes up to a second: fewer items than this are better done by one alone.
FEWEST_ITEMS = 4000


def default_workers() -> int:
    """Number of processors this process may use, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


def ordered_map(
    function: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    workers: int,
    chunk: int = 64,
    fewest: int | None = None,
) -> Iterator[Result]:
    """Results of `function` on consecutive chunks of `items`, in order, by `workers` processes.

    Only a few chunks are ahead of the caller, so memory does not grow with the number of items.
    `function` must be picklable; it is sent once to each process. As always with processes that are
    started afresh, a script that calls this with several needs its `if __name__ == "__main__":`.
    Of less than `fewest` items (default: FEWEST_ITEMS) this process takes all.
    """
    chunks = (items[start : start + chunk] for start in range(0, len(items), chunk))
    if workers <= 1 or len(items) < (FEWEST_ITEMS if fewest is None else fewest):
        yield from map(function, chunks)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
        initargs=(function,),
    )
    try:
        pending: deque[Any] = deque()
        for part in chunks:
            pending.append(pool.submit(_call, part))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_function: Callable[[Any], Any]


def _prepare(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _call(part: Any) -> Any:
    return _function(part)
