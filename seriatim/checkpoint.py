"""Checkpoints as data: loading one runs no code that the file brings along, and says what it
loaded.
"""

from __future__ import annotations

import codecs
import logging
import math
import pickle
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

from dataset_tools.errors import InputError

logger = logging.getLogger(__name__)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class MatchReport:
    """What became of the tensors of a file and of a model when one was loaded into the other.

    Attributes:
        file: where the weights come from.
        matched: names in the model that were loaded.
        reshaped: (name in the model, shape in the file, shape in the model) left out for their
        shape. initial: names in the model that the file does not have; they keep their initial
        values. unused: names in the file that the model does not have.
        share: share of the model's numbers that were loaded.
    """

    file: str
    matched: tuple[str, ...]
    reshaped: tuple[tuple[str, Shape, Shape], ...]
    initial: tuple[str, ...]
    unused: tuple[str, ...]
    share: float

    @property
    def complete(self) -> bool:
        """Whether every tensor found its counterpart."""
        return not (self.reshaped or self.initial or self.unused)

    def table(self) -> str:
        """A few lines for the log; names are grouped by the module that holds them."""
        total = len(self.matched) + len(self.reshaped) + len(self.initial)
        lines = [
            f"Weights from {self.file}: {len(self.matched)} of the model's {total} tensors"
            f" ({100 * self.share:.1f} % of its numbers)"
        ]
        reshaped = [f"{name}: {a} in the file, {b} here" for name, a, b in self.reshaped]
        initial = group_names(self.initial, [*self.matched, *self._reshaped_names, *self.initial])
        unused = group_names(self.unused, [*self.matched, *self._reshaped_names, *self.unused])
        for title, rows in (
            ("left out, other shape", reshaped),
            ("kept at their start", initial),
            ("in the file only", unused),
        ):
            lines += [f"  {title if i == 0 else '':<22} {row}" for i, row in enumerate(rows)]
        return "\n".join(lines)

    @property
    def _reshaped_names(self) -> list[str]:
        return [name for name, _, _ in self.reshaped]


def group_names(names: Sequence[str], universe: Iterable[str]) -> list[str]:
    """`names`, whole modules as one: "head.* (12 tensors)" if all that is in head is among them."""
    inside, there = Counter[str](), Counter[str]()
    for counter, items in ((inside, names), (there, universe)):
        for name in items:
            counter.update(_prefixes(name))
    groups: dict[str, int] = {}
    for name in names:
        whole = next((p for p in _prefixes(name) if inside[p] == there[p] > 1), None)
        groups[name if whole is None else f"{whole}.*"] = 1 if whole is None else inside[whole]
    return [
        label if count == 1 else f"{label} ({count} tensors)" for label, count in groups.items()
    ]


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


class SafeCheckpointer(DetectionCheckpointer):
    """A DetectionCheckpointer that reads tensors and plain values only, and reports what matched.

    .pth files load by torch's weights_only, the zoo's .pkl files by an unpickler of arrays. The
    last load is described by `report`. When a run is resumed (the file holds the state of a
    checkpointable) the weights must match completely.
    """

    report: MatchReport | None = None
    _file = ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load `path` (a file, or what Detectron2's path manager resolves) into the model.

        Args:
            checkpointables: names of further objects to load; None means all that the file has.

        Returns:
            what else the file holds.

        Raises:
            InputError: the file is missing, cut off, of another model, or holds more than data.
        """
        path = str(path or "")
        self._file = path
        if path:
            self._require(path)
        names = list(self.checkpointables) if checkpointables is None else checkpointables
        rest = super().load(path, checkpointables=[])
        names = [name for name in names if name in rest]
        if names and not self.report.complete:
            raise InputError(
                f"{path} cannot be resumed: it is of a model with other tensors than this config"
                f" describes."
                " Use the config of that run, or start a new run from its weights by MODEL.WEIGHTS."
                f"\n{_indent(self.report.table())}"
            )
        for name in names:
            try:
                self.checkpointables[name].load_state_dict(rest.pop(name))
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise InputError(
                    f"{path} cannot be resumed: its state of the {name} does not fit this config"
                    f" ({error}). Use the config of that run, or start a new run from its weights"
                    " by MODEL.WEIGHTS."
                ) from error
        return rest

    def _require(self, path: str) -> None:
        if "://" not in path:
            if not Path(path.partition("?")[0]).is_file():
                raise InputError(f"There is no checkpoint {path}. Check MODEL.WEIGHTS.")
            return
        try:
            self.path_manager.get_local_path(path.partition("?")[0])
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"The checkpoint {path} cannot be fetched: {error}. Download it by other means and"
                " name the file by MODEL.WEIGHTS."
            ) from None

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read_checkpoint(filename)
        # Detectron2's main branch takes path.pth?matching_heuristics=True; v0.6 knows no such
        # thing.
        url = getattr(self, "_parsed_url_during_load", None)
        if url is not None and parse_qs(url.query).get("matching_heuristics") == ["True"]:
            data["matching_heuristics"] = True
        return data

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        weights = checkpoint["model"]
        count, example = len(weights), next(iter(weights), "")
        before = {name: tuple(t.shape) for name, t in self.model.state_dict().items()}
        if checkpoint.pop("matching_heuristics", False):
            self._convert_ndarray_to_tensor(weights)
            with _quiet("detectron2.checkpoint.c2_model_loading"):
                weights = align_and_update_state_dicts(
                    self.model.state_dict(),
                    weights,
                    c2_conversion=checkpoint.get("__author__") == "Caffe2",
                )
        shapes = {name.removeprefix("module."): tuple(t.shape) for name, t in weights.items()}
        incompatible = super()._load_model({**checkpoint, "model": weights})
        del checkpoint["model"]
        self.report = _report(self._file, before, shapes, incompatible)
        if not self.report.matched:
            raise InputError(
                f"{self._file} is a checkpoint of another model: none of its {count} tensors (such"
                f" as {example}) fits one of this model's {len(before)} (such as"
                f" {next(iter(before), '')}). Check MODEL.WEIGHTS and MODEL.META_ARCHITECTURE; a"
                " backbone's own weights go to MODEL.TIMM.WEIGHTS."
            )
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        logger.info(self.report.table())


def _report(
    file: str, model: Mapping[str, Shape], weights: Mapping[str, Shape], incompatible: Any
) -> MatchReport:
    """From the shapes of model and file, names converted, and what fvcore's checkpointer says."""
    reshaped = list(incompatible.incorrect_shapes)
    missing = [name for name in model if name in set(incompatible.missing_keys)]
    unused = list(incompatible.unexpected_keys)
    # Matching by heuristics leaves a tensor of another shape under its own, shorter name.
    for name in unused[:]:
        for target in missing:
            if f".{target}".endswith(f".{name}") and weights[name] != model[target]:
                reshaped.append((target, weights[name], model[target]))
                unused.remove(name)
                break
    reshaped_names = {name for name, _, _ in reshaped}
    matched = [name for name in model if name in weights and name not in reshaped_names]
    numbers = {name: math.prod(shape) for name, shape in model.items()}
    return MatchReport(
        file=file,
        matched=tuple(matched),
        reshaped=tuple(reshaped),
        initial=tuple(name for name in missing if name not in reshaped_names),
        unused=tuple(unused),
        share=sum(numbers[name] for name in matched) / max(1, sum(numbers.values())),
    )


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep the table of every matched tensor out of the log: `MatchReport` says it shorter."""
    other = logging.getLogger(name)
    level = other.level
    other.setLevel(logging.ERROR)
    try:
        yield
    finally:
        other.setLevel(level)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file, with "model" mapping names to tensors or arrays.

    Knows torch's files (.pth), Detectron2's zoo and Caffe2's (.pkl), and pycls's (.pyth). For those
    that need it "matching_heuristics" is set, as DetectionCheckpointer expects.

    Raises:
        InputError: the file is cut off, of another kind, or holds anything but tensors and plain
        values.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(64)
    _refuse_other_kinds(path, head)
    if path.suffix == ".pkl":
        return _zoo_content(path, load_arrays(path))
    data = _torch_load(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__}, not the weights of a model.")
    if path.suffix == ".pyth":
        data = {"model": data.get("model_state", data), "matching_heuristics": True}
        data["__author__"] = "pycls"
    if "model" not in data:
        key = next((k for k in _WRAPPERS if isinstance(data.get(k), dict)), None)
        data = {"model": data if key is None else data[key]}
    _check_weights(path, data["model"])
    return data


# Under these names other programs keep their weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "net")


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    kind = None
    if not head:
        kind = "is empty"
    elif head.startswith(b"version https://git-lfs"):
        kind = "is a Git LFS pointer, not the file itself: fetch it by `git lfs pull`"
    elif head.lstrip()[:1] == b"<":
        kind = "is a web page: the download went wrong"
    elif head[8:9] == b"{" and path.suffix == ".safetensors":
        kind = (
            "is in safetensors format: convert it by torch.save(safetensors.torch.load_file(…), …)"
        )
    elif not head.startswith((b"PK\x03\x04", b"\x80", b"(", b"}", b"c")):
        kind = "is no checkpoint: neither torch's format nor a pickle"
    if kind:
        raise InputError(
            f"{path} {kind}. MODEL.WEIGHTS takes a .pth or a .pkl of Detectron2's zoo."
        )


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        culprit = next((line for line in lines if "GLOBAL" in line), None)
        if culprit is not None:
            raise _unsafe(path, culprit) from None
        fault = next((line for line in lines if line.startswith("Unsupported")), lines[0])
        raise _cut_off(path, ValueError(fault)) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _cut_off(path, error) from None


def _cut_off(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB) is cut off or damaged: {reason}. Copy or"
        " download it again, or use an older checkpoint of the run."
    )


def _unsafe(path: Path, culprit: str) -> InputError:
    return InputError(
        f"{path} holds more than tensors and plain values ({culprit}); loading such objects can"
        " run any code, so it is refused. If you trust its origin, load it yourself in Python,"
        " save its state_dict by torch.save, and name that file."
    )


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays, numbers, strings and containers of them; any other class is
    refused.
    """

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _SAFE_GLOBALS[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise _UnsafePickleError(f"{module}.{name}") from None


class _UnsafePickleError(Exception):
    pass


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes under protocol 2."""
    if encoding not in ("latin1", "latin-1", "iso-8859-1"):
        raise _UnsafePickleError(f"_codecs.encode to {encoding}")
    return codecs.encode(text, "latin1")


def _empty_bytes(*arguments: Any) -> bytes:
    """How Python 3 pickles an empty bytes under protocol 2."""
    if arguments:
        raise _UnsafePickleError("bytes with arguments")
    return b""


def _array_globals() -> dict[tuple[str, str], Any]:
    """The functions that a pickled array names, taken from what pickling one names."""
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float32(0).__reduce__()[0]
    frombuffer = np.empty(1).__reduce_ex__(5)[0]
    return {
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,
        ("numpy.core.multiarray", "scalar"): scalar,
        ("numpy.core.numeric", "_frombuffer"): frombuffer,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode_latin1,
        ("__builtin__", "bytes"): _empty_bytes,
        ("builtins", "bytes"): _empty_bytes,
    }


_SAFE_GLOBALS = _array_globals()


def load_arrays(path: Path) -> Any:
    """A pickle of NumPy arrays, numbers, strings and containers of them.

    Raises:
        InputError: it is cut off, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            # The zoo's files were pickled by Python 2.
            return _ArrayUnpickler(file, encoding="latin1").load()
    except _UnsafePickleError as error:
        raise _unsafe(path, str(error)) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise _cut_off(path, error) from None


def _zoo_content(path: Path, data: Any) -> dict[str, Any]:
    """Detectron2's own form, or Caffe2's blobs to be matched by heuristics."""
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__}, not the weights of a model.")
    if not ("model" in data and "__author__" in data):
        blobs = data.get("blobs", data)
        blobs = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
        data = {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
    _check_weights(path, data["model"])
    return data


def _check_weights(path: Path, weights: Any) -> None:
    if not isinstance(weights, dict) or not weights:
        raise InputError(f'{path} holds no weights: its "model" is {type(weights).__name__}.')
    for name, value in weights.items():
        good = isinstance(value, torch.Tensor) or (
            isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        )
        if not isinstance(name, str) or not good:
            raise InputError(
                f"{path} holds no weights of a model: {name!r} in it is a {type(value).__name__},"
                " not a tensor."
            )
