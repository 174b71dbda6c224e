"""Writes docs/config.md from the comments in seriatim/config.py: `python -m tools.config_docs`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, PAGE = ROOT / "seriatim" / "config.py", ROOT / "docs" / "config.md"

HEAD = """# Config keys

Every key that Seriatim adds to Detectron2's, or gives another default; written from the comments in
`seriatim/config.py` by `python -m tools.config_docs`. Detectron2's own keys are in
[its documentation](https://detectron2.readthedocs.io/en/latest/modules/config.html).

A config is a YAML file. `_BASE_` names one that it starts from, or a list of such, later ones
winning; a name of Detectron2's model zoo will do. Any key can be set at the end of a command:
`train_net.py --config-file configs/X.yaml SOLVER.MAX_ITER 500`. Unknown keys, wrong types, missing
files and numbers that contradict the data stop the program before a model is built. YAML is data:
tags that would run code are refused, but for literal arithmetic, which Detectron2's RetinaNet has.
"""


@dataclass
class Key:
    name: str
    default: str
    comment: str


@dataclass
class Group:
    name: str
    comment: str
    keys: list[Key] = field(default_factory=list)


def page() -> str:
    """The whole page as Markdown."""
    lines = [HEAD]
    for group in groups():
        if not group.keys:
            continue
        lines += [f"## {group.name}", ""]
        if group.comment:
            lines += [group.comment, ""]
        lines += ["| key | default | |", "|---|---|---|"]
        lines += [f"| `{k.name}` | `{k.default}` | {_escape(k.comment)} |" for k in group.keys]
        lines.append("")
    return "\n".join(lines)


def groups() -> list[Group]:
    """The groups of keys in the order of the source, each key with the comment above it."""
    found: dict[str, Group] = {}
    for name, value, comment in _assignments(SOURCE.read_text(encoding="utf-8")):
        if value == "CfgNode()":
            found[name] = Group(name, comment)
        else:
            group, _, key = name.rpartition(".")
            found.setdefault(group, Group(group, "")).keys.append(Key(key, value, comment))
    return list(found.values())


def _assignments(source: str) -> Iterator[tuple[str, str, str]]:
    """(dotted key, source of its default, comment above) of every `cfg.… = …` in the source."""
    lines = source.splitlines()
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        aliases = {"cfg": ""}
        for statement in function.body:
            if not isinstance(statement, ast.Assign):
                continue
            keys = [_dotted(t, aliases) for t in statement.targets if isinstance(t, ast.Attribute)]
            keys = [key for key in keys if key]
            if keys:
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        aliases[target.id] = f"{keys[0]}."
                yield keys[0], ast.unparse(statement.value), _comment(lines, statement.lineno - 2)


def _dotted(target: ast.Attribute, aliases: dict[str, str]) -> str | None:
    owner, _, rest = ast.unparse(target).partition(".")
    return aliases[owner] + rest if owner in aliases else None


def _comment(lines: list[str], last: int) -> str:
    """The comment that ends at line number `last`, as one paragraph."""
    texts: list[str] = []
    while lines[last].strip().startswith("#"):
        texts.insert(0, lines[last].strip().removeprefix("#").strip())
        last -= 1
    return " ".join(texts)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
