"""Records of a dataset kept in a few arrays and made when they are asked for.

A hundred thousand images with a million polygons are some gigabytes as lists and dicts, and a
tenth of that as arrays. Masks and keypoints stay the JSON text that they were, so that they come
out as they would have, to the type. The arrays are torch tensors, which workers of a DataLoader
share, whether they are forked or started afresh.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from detectron2.structures import BoxMode

from seriatim.data.records import Record


@dataclass(frozen=True)
class Texts(Sequence[bytes]):
    """Byte strings, one after the other, each closed by a byte that is 0.

    Attributes:
        block: (bytes,) uint8.
        ends: (N + 1,) int64: string i is block[ends[i] : ends[i + 1] - 1].
    """

    block: torch.Tensor
    ends: torch.Tensor

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        ends = np.concatenate([[0], np.cumsum(lengths + 1)])
        return cls.joined(bytearray(b"\0").join((*texts, b"")), ends)

    @classmethod
    def joined(cls, block: bytearray, ends: np.ndarray) -> Texts:
        """Texts that are joined already. (torch wants memory that may be written to.)"""
        return cls(
            torch.frombuffer(block or bytearray(1), dtype=torch.uint8), torch.from_numpy(ends)
        )

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index):
        start, end = self.ends.numpy()[index : index + 2].tolist()
        return self.block.numpy()[start : end - 1].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        block = self.block.numpy().data
        for start, end in itertools.pairwise(self.ends.tolist()):
            yield bytes(block[start : end - 1])

    def lengths(self) -> np.ndarray:
        """(N,) int64, in bytes."""
        return np.diff(self.ends.numpy()) - 1


@dataclass(frozen=True)
class Objects:
    """Columns of N annotations, in any order.

    Attributes:
        ids, categories: int64; the latter are contiguous from 0.
        boxes: (N, 4) float64, XYWH px.
        crowds: bool.
        segmentations, keypoints: JSON as in the file; empty where there is none.
        visible: int64, how many labelled keypoints there are.
    """

    ids: torch.Tensor
    categories: torch.Tensor
    boxes: torch.Tensor
    crowds: torch.Tensor
    segmentations: Texts
    keypoints: Texts
    visible: torch.Tensor


@dataclass(frozen=True)
class PackedDataset(Sequence[Record]):
    """Images with their annotations, as a sequence of records in Detectron2's standard format.

    Every access makes a new record, which the caller may change.

    Attributes:
        root: folder of the images.
        names: file names, relative to it.
        ids, heights, widths: (N,) int64 of the images.
        starts: (N + 1,) int64: those of image i are rows[starts[i] : starts[i + 1]] of the objects.
        rows: (M,) int64.
    """

    root: str
    names: Texts
    ids: torch.Tensor
    heights: torch.Tensor
    widths: torch.Tensor
    starts: torch.Tensor
    rows: torch.Tensor
    objects: Objects

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return {
            "file_name": os.path.join(self.root, _file_name(self.names[index])),
            "image_id": self.ids[index].item(),
            "height": self.heights[index].item(),
            "width": self.widths[index].item(),
            "annotations": list(self._annotations(index)),
        }

    def __iter__(self) -> Iterator[Record]:
        return map(self.__getitem__, range(len(self)))

    def file_names(self) -> list[str]:
        """Full paths of all images."""
        return [os.path.join(self.root, name) for name in map(_file_name, self.names)]

    def usable(self, filter_empty: bool, min_keypoints: int) -> np.ndarray:
        """(N,) bool: has an annotation that is no crowd, if that is asked for, and so many labelled
        keypoints."""
        rows = self.rows.numpy()
        plain, visible = ~self.objects.crowds.numpy()[rows], self.objects.visible.numpy()[rows]
        return ((self._sums(plain) > 0) | (not filter_empty)) & (
            self._sums(visible) >= min_keypoints
        )

    def classes(self, index: int) -> Record:
        """The record with nothing but the class and crowd flag of its annotations."""
        columns = self._of_image(index, self.objects.categories, self.objects.crowds)
        return {
            "annotations": [
                {"category_id": category, "iscrowd": int(crowd)} for category, crowd in columns
            ]
        }

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """(N,) sums over the rows of each image."""
        before = np.concatenate([[0], np.cumsum(values)])
        return np.diff(before[self.starts.numpy()])

    def _rows(self, index: int) -> np.ndarray:
        first, last = self.starts.numpy()[index : index + 2]
        return self.rows.numpy()[first:last]

    def _of_image(self, index: int, *columns: torch.Tensor) -> Iterator[tuple]:
        rows = self._rows(index)
        return zip(*(column.numpy()[rows].tolist() for column in columns), strict=True)

    def _annotations(self, index: int) -> Iterator[Record]:
        objects = self.objects
        columns = (objects.ids, objects.boxes, objects.categories, objects.crowds)
        rows = self._rows(index).tolist()
        for row, values in zip(rows, self._of_image(index, *columns), strict=True):
            own, box, category, crowd = values
            item = {
                "id": own,
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": category,
                "iscrowd": int(crowd),
            }
            if segmentation := objects.segmentations[row]:
                item["segmentation"] = msgspec.json.decode(segmentation)
            if keypoints := objects.keypoints[row]:
                # COCO's keypoints are indices of pixels; coordinates are half a pixel more.
                item["keypoints"] = [
                    value if i % 3 == 2 else value + 0.5
                    for i, value in enumerate(msgspec.json.decode(keypoints))
                ]
            yield item


@dataclass(frozen=True)
class Selection(Sequence[Record]):
    """Some records of one or several packed datasets, or of labelled ones.

    Attributes:
        parts: the datasets.
        numbers: (N,) int64, the dataset of each record.
        positions: (N,) int64, its position there.
    """

    parts: Sequence[PackedDataset]
    numbers: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, parts: Sequence[PackedDataset], kept: Sequence[np.ndarray]) -> Selection:
        """Of each dataset those records that its (N,) bool array says, in order."""
        positions = [np.flatnonzero(mask) for mask in kept]
        numbers = np.repeat(np.arange(len(parts)), [len(found) for found in positions])
        joined = np.concatenate(positions)
        return cls(parts, torch.from_numpy(numbers), torch.from_numpy(joined))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self.parts[self.numbers[index]][self.positions[index].item()]

    def followed_by(self, other: Selection) -> Selection:
        """The records of both."""
        return Selection(
            [*self.parts, *other.parts],
            torch.cat([self.numbers, other.numbers + len(self.parts)]),
            torch.cat([self.positions, other.positions]),
        )

    def classes(self) -> Iterable[Record]:
        """The records with nothing but the class and crowd flag of their annotations."""
        return _Classes(self)

    def landscape(self) -> np.ndarray:
        """(N,) bool: wider than high."""
        wider = [(part.widths > part.heights).numpy() for part in self.parts]
        starts = np.cumsum([0, *map(len, wider)])
        return np.concatenate(wider)[starts[self.numbers.numpy()] + self.positions.numpy()]


@dataclass(frozen=True)
class _Classes:
    selection: Selection

    def __len__(self) -> int:
        return len(self.selection)

    def __iter__(self) -> Iterator[Record]:
        chosen = zip(
            self.selection.numbers.tolist(), self.selection.positions.tolist(), strict=True
        )
        return (self.selection.parts[number].classes(position) for number, position in chosen)


def _file_name(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
