"""A dataset of labelled images as a sequence of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from seriatim.data.classification.stores import ImageFiles, Store
from seriatim.data.records import Record

UNLABELLED = -1


@dataclass(frozen=True)
class LabelledDataset(Sequence[Record]):
    """Records are made when they are asked for: `image_id`, `file_name` (packed images have none:
    "name#index"), `height`, `width` (px), `label` (int, contiguous from 0, or `UNLABELLED`), and,
    unless the image is left in its file, `pixels` ((H, W, 1) grey or (H, W, 3) RGB uint8, a view).

    Attributes:
        name: what packed images are called by.
        positions: (N,) int64, of the images in the store.
        labels, ids: (N,) int64.
        store: the pixels.
        files: where pixels in memory are from, if that is image files.
    """

    name: str
    class_names: tuple[str, ...]
    positions: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    store: Store
    files: ImageFiles | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        position = self.positions[index].item()
        layout = self.store.layout
        record = {
            "image_id": self.ids[index].item(),
            "file_name": self.file_name(index),
            "height": int(layout.heights[position]),
            "width": int(layout.widths[position]),
            "label": self.labels[index].item(),
        }
        if not isinstance(self.store, ImageFiles):
            record["pixels"] = self.store.pixels(position)
        return record

    def __iter__(self) -> Iterator[Record]:
        return map(self.__getitem__, range(len(self)))

    def file_name(self, index: int) -> str:
        """Of record `index`."""
        files = self.store if isinstance(self.store, ImageFiles) else self.files
        if files is not None:
            return files.path(self.positions[index].item())
        return f"{self.name}#{self.ids[index].item()}"

    @property
    def widths(self) -> torch.Tensor:
        """(N,) px."""
        return torch.from_numpy(self.store.layout.widths)[self.positions]

    @property
    def heights(self) -> torch.Tensor:
        """(N,) px."""
        return torch.from_numpy(self.store.layout.heights)[self.positions]

    def classes(self, index: int) -> Record:
        """The record as one with annotations, which have nothing but a class and no crowd flag."""
        label = self.labels[index].item()
        return {
            "annotations": [{"category_id": label, "iscrowd": 0}] if label != UNLABELLED else []
        }

    def subset(self, indices: np.ndarray, *, labelled: bool = True) -> LabelledDataset:
        """The records at `indices`, all of them unlabelled unless `labelled`."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        labels = self.labels[chosen]
        return replace(
            self,
            positions=self.positions[chosen],
            ids=self.ids[chosen],
            labels=labels if labelled else torch.full_like(labels, UNLABELLED),
        )
