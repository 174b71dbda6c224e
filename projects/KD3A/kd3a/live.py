"""What processes say of the federation, line by line as it comes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from typing import IO

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from dataset_tools.errors import InputError
from kd3a.hosts import Host
from kd3a.messages import QUERY, read

logger = logging.getLogger(__name__)

# Lines that begin so tell of the federation; all others are of Flower and of training.
MARK = "» "
_COLOURS = (36, 33, 35, 32, 34)  # of a terminal
_POLL = 0.3


def tell() -> None:
    """Write what this package logs to standard output, each line marked."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(f"{MARK}%(message)s"))
    logger = logging.getLogger("kd3a")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def tell_answer(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod that logs what a party answers, in a few words."""
    reply = call_next(message, context)
    if reply.has_content() and message.metadata.message_type != QUERY:
        work = read(reply)
        single = [f"{k} {v:.4g}" for k, v in work.scalars.items() if not isinstance(v, list)]
        kind = message.metadata.message_type.rpartition(".")[2]
        logger.info(f"round {work.round}: {kind}: {', '.join(single[:3])}")
    return reply


def watch(hosts: Sequence[Host], until: Host, seconds: float = float("inf")) -> None:
    """Print the marked lines of the logs of `hosts` until `until` ends, at most for `seconds`.

    Raises:
        InputError: it has not ended by then.
    """
    width = max(len(host.name) for host in hosts)
    tails = [_Tail(host, width, colour) for host, colour in zip(hosts, _colours(), strict=False)]
    end = time.monotonic() + seconds
    running = True
    while running:
        running = until.alive()
        for tail in tails:
            tail.print()
        if time.monotonic() > end:
            raise InputError(
                f"The {until.name} has not ended within {seconds:.0f} s. Is the machine busy? What"
                f" it did last is in {until.log}."
            )
        time.sleep(_POLL)


class _Tail:
    """The lines that have been added to a log since the last look."""

    def __init__(self, host: Host, width: int, colour: int) -> None:
        self._file: IO[str] = host.log.open(encoding="utf-8", errors="replace")
        name = f"{host.name:{width}} │"
        self._head = f"\033[{colour}m{name}\033[0m" if sys.stdout.isatty() else name
        self._rest = ""

    def print(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            _, mark, text = line.partition(MARK)
            if mark:
                print(self._head, text, flush=True)


def _colours():
    while True:
        yield from _COLOURS
