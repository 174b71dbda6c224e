"""COCO files as columns: those decoded in pieces against those read entry by entry."""

from __future__ import annotations

import json

import msgspec
import pytest

from dataset_tools.errors import InputError
from seriatim.data import columns
from tests.dataset_tools.test_coco_quick import CONTENT


def written(folder, **changes):
    path = folder / "a.json"
    path.write_text(json.dumps({**CONTENT, **changes}))
    return path


def described(found):
    objects = found.objects
    return {
        "categories": found.categories,
        "images": [
            found.image_ids.tolist(),
            found.heights.tolist(),
            found.widths.tolist(),
            list(found.names),
        ],
        "objects": {
            own: (box, category, crowd, json.loads(mask or b"0"), json.loads(points or b"0"), *more)
            for own, box, category, crowd, mask, points, *more in zip(
                objects.ids.tolist(),
                objects.boxes.tolist(),
                objects.categories.tolist(),
                objects.crowds.tolist(),
                objects.segmentations,
                objects.keypoints,
                objects.visible.tolist(),
                found.image_of.tolist(),
                found.kinds.tolist(),
                strict=True,
            )
        },
    }


OBJECTS = [
    {"bbox": [1, 2.5, 3, 1]},
    {"bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 4.25, 0, 4, 4], [1, 1, 2, 2, 3, 1, 0, 0]]},
    {"bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 4, 0], [1, 1, 2, 2, 3, 1]]},
    {"bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 4, 0]]},
    {"bbox": [0, 0, 9, 9], "segmentation": [1, 2, 3, 4, 5, 1e1]},
    {"bbox": [0, 0, 9, 9], "segmentation": []},
    {"bbox": [0, 0, 0, 9], "segmentation": None, "iscrowd": 0},
    {"bbox": [0, 0, 2, 9], "keypoints": [1, 2, 2, 0, 0, 0], "area": 3},
    {"bbox": [0, 0, 2, 9], "keypoints": []},
    {"bbox": [0, 0, 2, 9], "segmentation": {"size": [5, 4], "counts": [3, 5, 12]}, "iscrowd": 1},
]


def annotations():
    entries = [{"id": 50 - i, "image_id": (5, 2)[i % 2], **item} for i, item in enumerate(OBJECTS)]
    return [{**entry, "category_id": 3} for entry in entries]


def test_in_pieces_as_entry_by_entry(tmp_path):
    path = written(tmp_path, annotations=annotations())
    quick = described(columns._read_quickly(path))
    assert quick == described(columns._read_carefully(path))
    assert len(quick["objects"]) == len(OBJECTS)
    assert quick["images"][0] == [2, 5, 9]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 49},
        {"id": 2**70},
        {"image_id": 77},
        {"category_id": 77},
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"iscrowd": 2},
        {"segmentation": [[0, 0, 4, 0, 4, 4, 5]]},
        {"segmentation": [["0", 0, 4, 0, 4, 4]]},
        {"segmentation": [[0, 0, 4, 0, 4, 4], 3]},
        {"segmentation": {"size": [5, 4], "counts": [3]}},
        {"keypoints": [1, 2, 2]},
        {"keypoints": [1, 2]},
    ],
)
def test_what_is_wrong_is_said_by_the_careful_way(tmp_path, changes):
    entries = annotations()
    entries[0] |= changes
    if changes == {"bbox": None}:
        entries[0].pop("segmentation", None)
    path = written(tmp_path, annotations=entries)
    with pytest.raises((ValueError, msgspec.MsgspecError, OverflowError)):
        columns._read_quickly(path)
    with pytest.raises(InputError, match=r"a\.json"):
        columns.read_columns(path)


@pytest.mark.parametrize("mask", [[[0, 0, 4, 0, 4, float("nan")]], [[0, 0, 4, 0, 4, 1e999]]])
def test_masks_that_are_not_finite(tmp_path, mask):
    entries = annotations()
    entries[1]["segmentation"] = mask
    with pytest.raises(InputError, match="not finite"):
        columns.read_columns(written(tmp_path, annotations=entries))
