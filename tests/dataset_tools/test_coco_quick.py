"""Reading by types against reading entry by entry."""

import json

import msgspec
import pytest

from dataset_tools.coco import parse_coco
from dataset_tools.coco_quick import read_quickly

CATEGORIES = [
    {"id": 3, "name": "person", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]], "isthing": 1},
    {"id": 7, "name": "cat", "supercategory": "animal"},
]
IMAGES = [
    {"id": 5, "file_name": "a.jpg", "width": 10, "height": 20, "license": 1, "coco_url": "u"},
    {"id": 2, "file_name": "b/c.jpg", "width": 4, "height": 5, "attributes": {"camera": "left"}},
    {"id": 9, "file_name": "d.jpg", "width": 4, "height": 5},
]
ANNOTATIONS = [
    {"id": 1, "image_id": 2, "category_id": 7, "bbox": [1, 2.5, 3, 1]},
    {
        "id": 4,
        "image_id": 5,
        "category_id": 3,
        "bbox": [],
        "segmentation": [[0, 0, 4.25, 0, 4, 4]],
        "keypoints": [1, 2, 2, 0, 0, 0],
        "num_keypoints": 1,
        "area": 8.5,
        "iscrowd": 0,
    },
    {
        "id": 3,
        "image_id": 2,
        "category_id": 7,
        "segmentation": {"size": [5, 4], "counts": [3, 5, 12]},
        "iscrowd": 1,
        "attributes": {"truncated": True},
    },
    {"id": 8, "image_id": 2, "category_id": 7, "bbox": None, "segmentation": [], "area": None},
]
CONTENT = {
    "info": {"year": 2020},
    "licenses": [{"id": 1}],
    "categories": CATEGORIES,
    "images": IMAGES,
    "annotations": ANNOTATIONS,
}


def written(folder, content):
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return path


def test_the_same_as_entry_by_entry(tmp_path):
    path = written(tmp_path, CONTENT)
    assert read_quickly(path) == parse_coco(path, CONTENT)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 1, "extra": 2},
        {"id": 4},
        {"id": None},
        {"id": True},
        {"image_id": 77},
        {"category_id": 77},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, "4"]},
        {"bbox": [1, 2, 3, True]},
        {"bbox": [1, 2, 3, 2**60]},
        {"bbox": [1, 2, 3, float("nan")]},
        {"segmentation": [[1, 2, 3]]},
        {"segmentation": [1, 2, 3, 4, 5, 6]},
        {"segmentation": {"size": [5, 4], "counts": [3]}},
        {"segmentation": {"size": [5, 4]}},
        {"segmentation": {}},
        {"keypoints": [1, 2]},
        {"iscrowd": True},
        {"iscrowd": 2},
        {"attributes": None},
        {"score": 0.5},
        {"caption": "a cat"},
    ],
)
def test_what_is_not_plain_is_left_to_the_other_way(tmp_path, changes):
    first, *others = ANNOTATIONS
    path = written(tmp_path, {**CONTENT, "annotations": [first | changes, *others]})
    assert read_quickly(path) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [*IMAGES, IMAGES[0]]},
        {"images": [{**IMAGES[0], "file_name": ""}, *IMAGES[1:]]},
        {"images": None},
        {"categories": [*CATEGORIES, {"id": 8, "name": "cat"}]},
        {"annotations": {}},
    ],
)
def test_faults_of_the_lists(tmp_path, changes):
    assert read_quickly(written(tmp_path, {**CONTENT, **changes})) is None


def test_no_json(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"", b"[]", b"{", b"\xff\xfe{\x00}\x00", b"[" * 10_000):
        path.write_bytes(content)
        assert read_quickly(path) is None


def test_polygons_that_are_kept_as_text(tmp_path):
    polygon = [[0, 0, 4.25, 0, 4, 4], [1, 1.5, 2, 2, 3, 1e1]]
    fine = {"image_id": 2, "category_id": 7, "bbox": [1, 2.5, 3, 1], "area": 3}
    others = [{"area": None}, {"bbox": []}, {"attributes": {"a": None}}, {"segmentation": [[1, 2]]}]
    entries = [
        fine | {"segmentation": polygon[:1]},
        *(fine | {"segmentation": polygon} | o for o in others),
    ]
    entries = [entry | {"id": 20 + i} for i, entry in enumerate(entries)]
    path = written(tmp_path, {**CONTENT, "annotations": ANNOTATIONS + entries})
    found = read_quickly(path, keep_texts=True)
    texts = []
    for image in found.images:
        for annotation in image.annotations:
            if isinstance(annotation.segmentation, msgspec.Raw):
                texts.append(bytes(annotation.segmentation))
                annotation.segmentation = json.loads(texts[-1])
    assert texts == [b"[[0,0,4.25,0,4,4]]"]
    assert found == read_quickly(path)
