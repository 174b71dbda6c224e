"""Records of images that have a label as a whole, as gates choose and change them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seriatim.data.classification.dataset import LabelledDataset
from seriatim.data.classification.stores import ImageFiles, Layout, in_memory
from seriatim.data.packed import Texts

Record = dict[str, Any]
# Overrides for a dataset of a gate's own: all its images keep their label.
ALL_LABELLED = ("SERIATIM.SEMI.LABELS_PER_CLASS", 0, "SERIATIM.SEMI.VALIDATION_PER_CLASS", 0)


def has_labels(records: Sequence[Record]) -> bool:
    """Whether the images have labels as a whole."""
    return bool(len(records)) and "label" in records[0]


def as_dataset(name: str, class_names: Sequence[str], records: Sequence[Record]) -> LabelledDataset:
    """`records` as a dataset like those of the catalog, pixels in memory where they have them."""
    heights, widths = (np.array([r[key] for r in records], np.int64) for key in ("height", "width"))
    if "pixels" in records[0]:
        layout = Layout(heights, widths, records[0]["pixels"].shape[2])
        store = in_memory((record["pixels"] for record in records), layout)
    else:
        files = Texts.of([os.fsencode(record["file_name"]) for record in records])
        store = ImageFiles(files, Layout(heights, widths, 3))
    labels, ids = (
        torch.tensor([record[key] for record in records], dtype=torch.int64)
        for key in ("label", "image_id")
    )
    positions = torch.arange(len(records))
    return LabelledDataset(name, tuple(class_names), positions, labels, ids, store)


def with_labels_of_others(records: Sequence[Record], shift: int) -> list[Record]:
    """Every record with the label of the one `shift` places on."""
    return [
        {**record, "label": records[(place + shift) % len(records)]["label"]}
        for place, record in enumerate(records)
    ]
