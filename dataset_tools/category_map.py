"""A map of category names in YAML: which are renamed, joined and dropped, and their order.

```yaml
categories:          # old: new. Several with the same new name are joined.
  Car: car
  lorry: car
  unknown: null      # dropped, with all its objects
others: keep         # or drop: what is not named above
order: [person, car] # these first, in this order; the others follow in their own
```

All names are replaced at once: `a: b` and `b: a` swaps two.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Category
from dataset_tools.errors import InputError
from dataset_tools.formats.base import read_text

_KEYS = ("categories", "others", "order")
_FORM = "It is described in `python -m dataset_tools remap --help`."


@dataclass(frozen=True)
class CategoryMap:
    """Old category names → new ones, None for those that are dropped."""

    names: Mapping[str, str | None] = field(default_factory=dict)
    drop_others: bool = False
    order: Sequence[str] = ()

    def __call__(self, name: str) -> str | None:
        """The new name of a category; None if it is dropped."""
        return self.names.get(name, None if self.drop_others else name)

    def require_known(self, known: Iterable[str]) -> None:
        """InputError if the map names categories that the data does not have."""
        known = list(dict.fromkeys(known))
        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise InputError(
                f"There is no category {_named(unknown, known)} to rename. "
                f"There are: {', '.join(known)}."
            )
        new = {self(name) for name in known}
        lost = [name for name in self.order if name not in new]
        if lost:
            raise InputError(
                f"The order names {_named(lost, [n for n in new if n])}, which no category is "
                "called after the renaming."
            )

    def annotations(self, annotations: Iterable[Annotation]) -> list[Annotation]:
        """Those that are kept, under their new names."""
        pairs = ((annotation, self(annotation.category)) for annotation in annotations)
        return [replace(a, category=name) for a, name in pairs if name is not None]

    def categories(self, categories: Iterable[Category]) -> tuple[list[Category], list[str]]:
        """The new categories in their order; what one leaves open another of its name fills in.

        Also what contradicted: where supercategories or further keys differ, the first one's are
        taken.

        Raises:
            InputError: categories that become one have different keypoints. All such are named.
        """
        joined: dict[str, Category] = {}
        refused: list[str] = []
        told: list[str] = []
        for category in categories:
            name = self(category.name)
            if name is None:
                continue
            new = replace(category, name=name, id=None)
            old = joined.setdefault(name, new)
            if old is new:
                continue
            if old.keypoints and new.keypoints and old.keypoints != new.keypoints:
                refused.append(f"{name!r} ({', '.join(old.keypoints)}; {', '.join(new.keypoints)})")
            told += _contradictions(name, old, new)
            joined[name] = replace(
                old,
                supercategory=old.supercategory or new.supercategory,
                keypoints=old.keypoints or new.keypoints,
                skeleton=old.skeleton or new.skeleton,
                extra=new.extra | old.extra,
            )
        if refused:
            raise InputError(
                f"Categories that become one have different keypoints: {', '.join(refused)}. "
                "Give them different names."
            )
        names = [*self.order, *(name for name in joined if name not in self.order)]
        return [joined[name] for name in names if name in joined], list(dict.fromkeys(told))


def read_category_map(path: str | Path) -> CategoryMap:
    """The map in a YAML file. InputError, with the line if there is one, if it is none."""
    content = _load(Path(path))
    if not isinstance(content, dict) or not isinstance(content.get("categories", {}), dict):
        raise InputError(f"{path}: no map of categories: `categories:` with lines `old: new`.")
    unknown = [key for key in content if key not in _KEYS]
    if unknown:
        raise InputError(f"{path}: there is no key {_named(unknown, _KEYS)} in such a map. {_FORM}")
    names = {
        _text(old, path): None if new is None else _text(new, path)
        for old, new in content.get("categories", {}).items()
    }
    others, order = content.get("others", "keep"), content.get("order", [])
    if others not in ("keep", "drop"):
        raise InputError(f"{path}: `others` is keep or drop, not {others!r}.")
    if not isinstance(order, list):
        raise InputError(f"{path}: `order` is a list of names, as in [person, car].")
    order = [_text(name, path) for name in order]
    repeated = sorted({name for name in order if order.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: the order names {_named(repeated, ())} twice.")
    return CategoryMap(names, others == "drop", order)


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in case, spaces, hyphens and underscores."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        other = first.setdefault("".join(filter(str.isalnum, name.casefold())), name)
        if other != name:
            pairs.append((other, name))
    return pairs


def _contradictions(name: str, old: Category, new: Category) -> list[str]:
    told = []
    if old.supercategory and new.supercategory and old.supercategory != new.supercategory:
        told.append(f"{name}: supercategory {old.supercategory!r}, elsewhere {new.supercategory!r}")
    for key in old.extra:
        if key in new.extra and old.extra[key] != new.extra[key]:
            told.append(f"{name}: {key} {old.extra[key]!r}, elsewhere {new.extra[key]!r}")
    return told


def _load(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what YAML allows: one key twice, of which the last would win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise InputError(f"{path}:{line}: {key.value!r} is there twice. Remove one.")
                seen.add(key.value if isinstance(key.value, str) else None)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(read_text(path), Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: no YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: no YAML: {error}.") from error


def _text(value: Any, path: str | Path) -> str:
    # `1: one` is meant as it stands, but `no` and `on` mean false and true to YAML.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: {value!r} is no name of a category. Put names in quotes.")
    return value


def _named(names: Sequence[Any], known: Sequence[str]) -> str:
    told = []
    for name in names:
        close = difflib.get_close_matches(str(name), known, 1)
        told.append(f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    return ", ".join(told)
