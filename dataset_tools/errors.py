"""What a person is told when something is wrong, and the exit code that says whose fault it was."""

from __future__ import annotations

import errno
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path

EXIT_OUR_FAULT = 1
EXIT_BAD_INPUT = 2
EXIT_GATE_FAILED = 3
EXIT_INTERRUPTED = 130


class InputError(Exception):
    """The user's data, config or command is wrong.

    The message is one paragraph: what is wrong, where (file and line if there is one), what to do.
    """


class GateFailed(Exception):
    """A check that training rests on did not hold. The message says what was asked and measured."""


def explain_os_error(error: OSError) -> str | None:
    """One paragraph for the operating-system errors a user can mend; None for all others."""
    where = error.filename or "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full: writing {where} failed. Free some space or choose another folder."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"No permission for {where}. Choose another folder or change its access rights."
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or (
        error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
    ):
        return f"{error.strerror}: {where}. Check the path."
    return None


def explain_missing_package(error: ModuleNotFoundError) -> str | None:
    """One paragraph for a package that is not installed; None for a module of our own."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "dataset_tools", "seriatim"):
        return None
    return (
        f"The Python package {package} is not installed here. `python -m seriatim.doctor` lists"
        " what is missing, with the command that installs it."
    )


def users_place(error: BaseException) -> str | None:
    """FILE:LINE of the last call of `error`'s traceback that is neither in a library nor in this
    project, so in code that a user has written; None if there is none."""
    import sysconfig

    root = Path(__file__).parents[1]
    known = [root / "dataset_tools", root / "seriatim", root / "train_net.py"]
    known.append(Path(sysconfig.get_paths()["stdlib"]))
    found = None
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        library = {"site-packages", "dist-packages"} & set(path.parts)
        if path.is_file() and not library and not any(map(path.is_relative_to, known)):
            found = f"{frame.filename}:{frame.lineno}"
    return found


def complain(message: str) -> None:
    """Print `message` to standard error, wrapped; indented lines are kept as they are."""
    width = max(40, min(100, shutil.get_terminal_size((100, 24)).columns))
    # A no-break space keeps "error:" beside the first word, however long that word (a path) is.
    for line in f"error:\N{NO-BREAK SPACE}{message}".splitlines():
        if not line.startswith(" "):
            line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        print(line.replace("\N{NO-BREAK SPACE}", " "), file=sys.stderr)


def run(main: Callable[[], int | None]) -> int:
    """Call `main` and turn what it raises into an exit code (see the constants above).

    A user's mistake ends in one paragraph without a traceback; our own fault keeps its traceback.
    """
    try:
        return main() or 0
    except InputError as error:
        complain(str(error))
        return EXIT_BAD_INPUT
    except GateFailed as error:
        complain(str(error))
        return EXIT_GATE_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `… | head` closed our output: not an error, and Python must not complain when it flushes.
        sys.stdout = None
        return 0
    except Exception as error:
        message = None
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            error = error.__context__  # what pathlib makes of links in a ring
        if isinstance(error, OSError):
            message = explain_os_error(error)
        elif isinstance(error, ModuleNotFoundError):
            message = explain_missing_package(error)
        if message is not None:
            complain(message)
            return EXIT_BAD_INPUT
        traceback.print_exc()
        place = users_place(error)
        complain(
            f"{type(error).__name__} in your own code, {place}; the traceback above says more."
            if place
            else "This is a fault of Seriatim, not of your input; the traceback above says where."
        )
        return EXIT_OUR_FAULT
