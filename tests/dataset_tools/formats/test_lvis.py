import json
from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from tests.dataset_tools.makers import converted, picture, text

CATEGORY = {"frequency": "r", "synset": "aerosol.n.02", "synonyms": ["spray"], "def": "a can"}


def lvis(folder: Path, **image) -> Path:
    """Category ids with a gap, so that they are other ones when written."""
    picture(folder / "train2017/000000391895.jpg")
    content = {
        "info": {"description": "LVIS"},
        "images": [
            {
                "id": 391895,
                "width": 20,
                "height": 10,
                "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
                "neg_category_ids": [7],
                "not_exhaustive_category_ids": [3, 7],
                **image,
            }
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 391895,
                "category_id": 3,
                "bbox": [1.5, 2, 4, 3],
                "area": 9.0,
                "segmentation": [[1.5, 2, 5.5, 2, 5.5, 5]],
            }
        ],
        "categories": [
            {"id": 7, "name": "zebra", **CATEGORY},
            {"id": 3, "name": "aerosol_can", **CATEGORY},
        ],
    }
    return text(folder / "lvis_v1_train.json", json.dumps(content))


@pytest.mark.parametrize("name", ["lvis", "coco", "auto"])
def test_lvis_is_read_with_what_was_looked_for(tmp_path, name):
    lvis(tmp_path / "in")
    conversion, splits = converted(name, tmp_path / "in", tmp_path / "out")
    image = splits["train"]["train2017/000000391895.jpg"]
    ((category, box, entry),) = image["objects"]
    assert (category, box, entry["area"], entry["iscrowd"]) == ("aerosol_can", [1.5, 2, 4, 3], 9, 0)
    assert image["entry"]["attributes"] == {
        "neg_categories": ["zebra"],
        "not_exhaustive_categories": ["aerosol_can", "zebra"],
    }
    assert image["entry"]["coco_url"].endswith("391895.jpg")
    content = json.loads(conversion.files["train"].path.read_text())
    assert content["categories"] == [
        {"id": 1, "name": "aerosol_can", "supercategory": "", **CATEGORY},
        {"id": 2, "name": "zebra", "supercategory": "", **CATEGORY},
    ]
    assert not conversion.notes


def test_version_0_5_has_file_names(tmp_path):
    lvis(tmp_path / "in", file_name="000000391895.jpg")
    _, splits = converted("lvis", tmp_path / "in", tmp_path / "out", ids="keep")
    assert list(splits["train"]) == ["train2017/000000391895.jpg"]
    assert splits["train"]["train2017/000000391895.jpg"]["entry"]["id"] == 391895


def test_an_unknown_category_that_was_looked_for(tmp_path):
    lvis(tmp_path / "in", neg_category_ids=[8])
    with pytest.raises(InputError, match=r"images\[0\]: neg_category_ids is not a list of ids"):
        converted("lvis", tmp_path / "in", tmp_path / "out")


def test_it_is_recognised_as_coco(tmp_path):
    assert [format_.name for format_, _ in recognise(lvis(tmp_path / "in"))] == ["coco"]
