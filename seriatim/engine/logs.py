"""Where log lines go: everything to a file, what a person needs to the terminal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

LOGGERS = ("seriatim", "detectron2", "fvcore")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _TerminalFormatter(logging.Formatter):
    """The bare message; its level in front where it is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {message}"
        return message


class _OurHandler:
    """Marks the handlers that `setup_logging` made, so that a second call replaces them."""


class TerminalHandler(_OurHandler, logging.StreamHandler):
    """Writes to what `sys.stdout` is at that moment: a progress bar replaces it."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.INFO)
        self.setFormatter(_TerminalFormatter("%(message)s"))

    @property
    def stream(self):
        return sys.stdout

    @stream.setter
    def stream(self, value) -> None:
        pass


class _LogFileHandler(_OurHandler, logging.FileHandler):
    pass


def setup_logging(output_dir: str | Path | None, rank: int = 0) -> None:
    """Send the loggers of Seriatim, Detectron2 and fvcore to terminal and OUTPUT_DIR/log.txt.

    Process 0 alone speaks to the terminal; the others write log.txt.rankN. Files take DEBUG too.
    """
    handlers: list[logging.Handler] = [TerminalHandler()] if rank == 0 else []
    if output_dir is not None:
        name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        file = _LogFileHandler(Path(output_dir) / name, encoding="utf-8")
        file.setFormatter(logging.Formatter(_FORMAT))
        handlers.append(file)
    close_logging()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)


def close_logging() -> None:
    """Take back what `setup_logging` did to the handlers."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in [h for h in logger.handlers if isinstance(h, _OurHandler)]:
            logger.removeHandler(handler)
            handler.close()
