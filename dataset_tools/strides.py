"""The strides of a detector's feature maps, from its config file.

Only the file and its bases are read, not Detectron2: what a config leaves to Detectron2's defaults
is not known here, and of its model zoo's configs as much as their names say.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_tools.errors import InputError
from dataset_tools.formats.base import read_text

DEFAULT = (8, 16, 32)
# Meta-architecture → where its levels are named, and Seriatim's default for them.
_LEVELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "TaskAlignedDetector": ("TASK_ALIGNED", ("p3", "p4", "p5")),
    "FCOSDetector": ("FCOS", ("p3", "p4", "p5", "p6", "p7")),
    "RetinaNet": ("RETINANET", ()),
    "GeneralizedRCNN": ("RPN", ()),
}
_DEEPEST = 20  # bases of bases
# What names of the model zoo's configs say, the first that fits.
_ZOO: dict[str, dict[str, Any]] = {
    "retinanet": {
        "META_ARCHITECTURE": "RetinaNet",
        "RETINANET": {"IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"]},
    },
    "fpn": {"RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"]}},
    "c4": {"RPN": {"IN_FEATURES": ["res4"]}},
}


def parse_strides(text: str) -> list[int]:
    """`8,16,32` as numbers. InputError if it is not of this form."""
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*[1-9]\d{0,3}\s*", part) for part in parts):
        raise InputError(f"--strides {text!r}: write whole numbers with commas, as in 8,16,32.")
    return sorted({int(part) for part in parts})


def strides_of_config(path: str | Path) -> list[int]:
    """Strides of the levels on which the config's detector finds objects.

    InputError if the config does not say it.
    """
    model = _read(Path(path)).get("MODEL") or {}
    name = model.get("META_ARCHITECTURE", "GeneralizedRCNN")
    group, default = _LEVELS.get(name, ("", ()))
    levels: Sequence[Any] = (model.get(group) or {}).get("IN_FEATURES") or default
    matches = [re.fullmatch(r"(?:p|res)(\d)", str(level)) for level in levels]
    if not matches or not all(matches):
        raise InputError(
            f"{path} does not say on which levels {name} finds objects. Give the strides instead, "
            "as in --strides 8,16,32."
        )
    return sorted(2 ** int(match[1]) for match in matches)


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    """The config over its bases: files beside it, or configs of the model zoo."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Passes over tags, with which Detectron2's configs compute anchors."""

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    if not path.is_file():
        raise InputError(f"There is no config {path}. Check the path.")
    try:
        content = yaml.load(read_text(path), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: no YAML: {error}.") from error
    if not isinstance(content, dict) or depth > _DEEPEST:
        raise InputError(f"{path} is no config: it is to be a map that starts with _BASE_ or keys.")
    bases = content.pop("_BASE_", [])
    result: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        if (path.parent / base).is_file():
            _update(result, _read(path.parent / base, depth + 1))
        else:
            _update(result, {"MODEL": _of_zoo(str(base))})
    _update(result, content)
    return result


def _of_zoo(name: str) -> dict[str, Any]:
    """What is known of the model of a config in the zoo."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((copy.deepcopy(said) for word, said in _ZOO.items() if word in words), {})


def _update(target: dict[str, Any], source: dict[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _update(target[key], value)
        else:
            target[key] = value
