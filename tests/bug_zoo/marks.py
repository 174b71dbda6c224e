"""What the result of a case depends on: the files that were used for it, by their bytes.

Of the project these are the modules that its process has loaded; of the tests the case's own module
with the helpers that it imports. So a change of one helper, or of a gate that was not asked, leaves
the other cases' results as they are.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = ("seriatim", "dataset_tools")
# They list the cases and tell the results, and change none.
INDIFFERENT = {"registry.py", "runner.py", "report.py", "marks.py"}


def used(module: str, gates: bool = True) -> dict[str, str]:
    """File, from the project's root on → its hash, of what this process has used for a case.

    Args:
        module: of the zoo, that the case is written in.
        gates: count those of seriatim.gates too.
    """
    files = {Path(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
    own = {f for f in files if f.is_relative_to(ROOT) and f.relative_to(ROOT).parts[0] in PROJECT}
    if not gates:
        own = {f for f in own if not f.is_relative_to(ROOT / "seriatim" / "gates")}
    zoo = ROOT / "tests" / "bug_zoo"
    own |= written_with(zoo / f"{module}.py") | written_with(zoo / "pipeline.py")
    return {str(file.relative_to(ROOT)): _hash(file) for file in sorted(own)}


def unchanged(recorded: dict[str, str]) -> bool:
    """Whether the files that `used` gave are still the same."""
    return all(_hash(ROOT / file) == known for file, known in recorded.items())


def written_with(file: Path) -> set[Path]:
    """A module of the tests, and the modules of the tests that it and these import."""
    found: set[Path] = set()
    todo = [file]
    while todo:
        file = todo.pop()
        if file not in found and file.name not in INDIFFERENT:
            found.add(file)
            todo += _imported(file)
    return found


@cache
def _imported(file: Path) -> tuple[Path, ...]:
    names = (
        name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for name in _names(node, file)
    )
    paths = (ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names)
    return tuple(path for path in paths if path.is_file())


def _names(node: ast.ImportFrom, file: Path) -> Iterator[str]:
    """The modules of the tests that an import may mean."""
    name = node.module or ""
    if node.level:
        package = file.relative_to(ROOT).parent.parts
        name = ".".join((*package[: len(package) - node.level + 1], name)).rstrip(".")
    if name.partition(".")[0] == "tests":
        yield name
        yield from (f"{name}.{alias.name}" for alias in node.names)


@cache
def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""
