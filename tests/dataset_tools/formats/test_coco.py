import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text


def content(**changes):
    """A COCO file as others write them: ids with gaps, categories out of order, keys of their
    own."""
    return {
        "info": {"year": 2017},
        "licenses": [{"id": 3, "name": "CC"}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat", "color": [1, 2, 3]}],
        "images": [
            {"id": 42, "file_name": "b.jpg", "width": 20, "height": 10, "license": 3},
            {"id": 5, "file_name": "a.jpg", "width": 20, "height": 10},
        ],
        "annotations": [
            {"id": 11, "image_id": 5, "category_id": 90, "bbox": [2, 3, 6, 4], "occluded": True},
            {"id": 10, "image_id": 42, "category_id": 7, "bbox": [1, 1, 2, 2], "iscrowd": 0},
        ],
    } | changes


def written(path, value, encoding="utf-8"):
    return text(path, json.dumps(value), encoding)


def dataset(folder, value=None):
    for name in "ab":
        picture(folder / f"{name}.jpg")
    return written(folder / "labels.json", value or content())


def test_ids_are_contiguous_and_categories_in_the_order_of_their_ids(tmp_path):
    conversion, splits = converted("coco", dataset(tmp_path / "in"), tmp_path / "out")
    result = json.loads((tmp_path / "out/all.json").read_text())
    assert [image["id"] for image in result["images"]] == [1, 2]
    assert [annotation["id"] for annotation in result["annotations"]] == [1, 2]
    assert result["categories"] == [
        {"id": 1, "name": "cat", "supercategory": "", "color": [1, 2, 3]},
        {"id": 2, "name": "dog", "supercategory": ""},
    ]
    assert result["licenses"] == [{"id": 3, "name": "CC"}]
    assert result["info"]["source_info"] == {"year": 2017}
    assert splits["all"]["b.jpg"]["entry"]["license"] == 3
    ((name, bbox, entry),) = splits["all"]["a.jpg"]["objects"]
    assert (name, bbox, entry["area"]) == ("dog", [2, 3, 6, 4], 24)
    assert entry["attributes"] == {"occluded": True}
    assert not conversion.notes


def test_ids_can_be_kept(tmp_path):
    converted("coco", dataset(tmp_path / "in"), tmp_path / "out", ids="keep")
    result = json.loads((tmp_path / "out/all.json").read_text())
    assert [image["id"] for image in result["images"]] == [42, 5]
    assert {c["name"]: c["id"] for c in result["categories"]} == {"cat": 7, "dog": 90}
    assert {a["id"]: (a["image_id"], a["category_id"]) for a in result["annotations"]} == {
        10: (42, 7),
        11: (5, 90),
    }


def test_converting_the_result_again_changes_nothing(tmp_path):
    converted("coco", dataset(tmp_path / "in"), tmp_path / "one")
    converted("coco", tmp_path / "one/all.json", tmp_path / "two")
    one, two = (json.loads((tmp_path / n / "all.json").read_text()) for n in ("one", "two"))
    assert {k: v for k, v in one.items() if k != "info"} == {
        k: v for k, v in two.items() if k != "info"
    }
    assert one["info"]["image_root"] == two["info"]["image_root"] == "../in"


def segmentations():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 3:9] = 1
    mask[7:9, 15:20] = 1
    compressed = coco_mask.encode(np.asfortranarray(mask))
    runs, value, length = [], 0, 0
    for pixel in mask.flatten(order="F"):
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    runs.append(length)
    polygon = [3, 2, 9, 2, 9, 5, 3, 5]
    other = [15, 7, 20, 7, 20, 9, 15, 9]
    return mask, {
        "polygons": [polygon, other],
        "compressed": {"size": [10, 20], "counts": compressed["counts"].decode()},
        "runs": {"size": [10, 20], "counts": runs},
    }


@pytest.mark.parametrize("kind", ["polygons", "compressed", "runs"])
def test_masks_box_and_area(tmp_path, kind):
    mask, forms = segmentations()
    annotation = {"id": 1, "image_id": 5, "category_id": 7, "segmentation": forms[kind]}
    source = dataset(tmp_path / "in", content(annotations=[{**annotation, "iscrowd": 1}]))
    _, splits = converted("coco", source, tmp_path / "out")
    ((_, bbox, entry),) = splits["all"]["a.jpg"]["objects"]
    assert (bbox, entry["area"], entry["iscrowd"]) == ([3, 2, 17, 7], 28, 1)
    loaded = COCO(tmp_path / "out/all.json")
    assert (loaded.annToMask(loaded.anns[1]) == mask).all()


def test_keypoints(tmp_path):
    points = [4, 5, 2, 0, 0, 0, 9, 7, 1]
    value = content(
        categories=[
            {
                "id": 1,
                "name": "person",
                "keypoints": ["nose", "eye", "ear"],
                "skeleton": [[1, 2], [2, 3]],
            }
        ],
        annotations=[{"id": 1, "image_id": 5, "category_id": 1, "keypoints": points}],
    )
    _, splits = converted("coco", dataset(tmp_path / "in", value), tmp_path / "out")
    ((_, bbox, entry),) = splits["all"]["a.jpg"]["objects"]
    assert entry["keypoints"] == points and entry["num_keypoints"] == 2
    assert bbox == [4, 5, 5, 2]
    (category,) = json.loads((tmp_path / "out/all.json").read_text())["categories"]
    assert category["keypoints"] == ["nose", "eye", "ear"]
    assert category["skeleton"] == [[1, 2], [2, 3]]


def panoptic(folder, ids=None):
    """Segments 300 (a thing) and 70000 (stuff) in a.jpg."""
    if ids is None:
        ids = np.zeros((10, 20), np.int64)
        ids[2:5, 3:9] = 300
        ids[6:] = 70_000
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65_536], -1).astype(np.uint8)
    (folder / "panoptic_val").mkdir(parents=True)
    Image.fromarray(colours).save(folder / "panoptic_val/a.png")
    picture(folder / "a.jpg")
    segments = [
        {"id": 300, "category_id": 7, "iscrowd": 0},
        {"id": 70_000, "category_id": 90, "iscrowd": 1},
    ]
    value = content(
        categories=[
            {"id": 7, "name": "cat", "isthing": 1},
            {"id": 90, "name": "sky", "isthing": 0},
        ],
        images=content()["images"][1:],
        annotations=[{"image_id": 5, "file_name": "a.png", "segments_info": segments}],
    )
    return written(folder / "panoptic_val.json", value)


def test_panoptic_segments_become_instances(tmp_path):
    conversion, splits = converted("coco", panoptic(tmp_path / "in"), tmp_path / "out")
    cat, sky = splits["all"]["a.jpg"]["objects"]
    assert cat[:2] == ("cat", [3, 2, 6, 3]) and cat[2]["area"] == 18
    assert sky[:2] == ("sky", [0, 6, 20, 4]) and sky[2]["iscrowd"] == 1
    categories = json.loads((tmp_path / "out/all.json").read_text())["categories"]
    assert [category["isthing"] for category in categories] == [1, 0]
    assert not conversion.notes


def test_panoptic_segments_that_do_not_fit_are_counted(tmp_path):
    ids = np.zeros((10, 20), np.int64)
    ids[0, 0] = 300
    ids[1, 1] = 5
    conversion, _ = converted("coco", panoptic(tmp_path / "in", ids), tmp_path / "out")
    assert [note.kind for note in conversion.notes.dropped.values()] == [
        "segment without a pixel in its PNG",
        "segment in a PNG that segments_info does not name",
    ]
    (tmp_path / "in/panoptic_val/a.png").unlink()
    with pytest.raises(InputError, match="--panoptic-images"):
        converted("coco", tmp_path / "in/panoptic_val.json", tmp_path / "out")


def test_a_folder_of_splits_shares_its_categories(tmp_path):
    for split, name in (("train2017", "a.jpg"), ("val2017", "b.jpg")):
        picture(tmp_path / f"in/{split}/{name}")
        image = {"id": 5, "file_name": name, "width": 20, "height": 10}
        annotation = content()["annotations"][0]
        value = content(images=[image], annotations=[annotation])
        if split == "val2017":
            value["categories"] = [{"id": 90, "name": "dog"}, {"id": 91, "name": "cow"}]
        written(tmp_path / f"in/annotations/instances_{split}.json", value)
    _, splits = converted("coco", tmp_path / "in", tmp_path / "out")
    assert {split: list(images) for split, images in splits.items()} == {
        "train": ["train2017/a.jpg"],
        "val": ["val2017/b.jpg"],
    }
    for split in splits:
        result = json.loads((tmp_path / f"out/{split}.json").read_text())
        assert [category["name"] for category in result["categories"]] == ["cat", "dog", "cow"]
        assert result["annotations"][0]["category_id"] == 2


def test_two_files_of_one_split_are_not_guessed_at(tmp_path):
    for year in (2014, 2017):
        written(tmp_path / f"in/instances_train{year}.json", content())
    with pytest.raises(InputError, match="both of split train"):
        converted("coco", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("place", ["images", "../images", "labels", "../photos/deep"])
def test_the_image_root_is_found(tmp_path, place):
    picture(tmp_path / "in/x" / place / "a.jpg")
    value = content(images=content()["images"][1:], annotations=[])
    source = written(tmp_path / "in/x/labels.json", value)
    images = tmp_path / "in/photos" if "photos" in place else None
    conversion, splits = converted("coco", source, tmp_path / "out", images=images)
    (name,) = splits["all"]
    assert (conversion.plan.image_root / name).is_file()
    assert not conversion.notes


def test_names_that_lead_out_of_the_root_lose_their_folder(tmp_path):
    images = [
        {"id": 1, "file_name": "../../x.jpg", "width": 20, "height": 10},
        {"id": 2, "file_name": "/etc/y.jpg", "width": 20, "height": 10},
        {"id": 3, "file_name": "C:\\photos\\a.jpg", "width": 20, "height": 10},
        {"id": 4, "file_name": "sub\\z.jpg", "width": 20, "height": 10},
    ]
    source = dataset(tmp_path / "in", content(images=images, annotations=[]))
    conversion, splits = converted("coco", source, tmp_path / "out")
    assert list(splits["all"]) == ["x.jpg", "y.jpg", "a.jpg", "sub/z.jpg"]
    assert [note.count for note in conversion.notes.suspicious.values()] == [2, 1]


def test_faulty_entries_are_dropped_and_counted(tmp_path):
    good = content()["annotations"]
    bad = [
        {"id": 20, "image_id": 999, "category_id": 7},
        {"id": 21, "image_id": 5, "category_id": 999},
        {"id": 10, "image_id": 5, "category_id": 7},
        {"id": 22, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3]},
        {"id": 23, "image_id": 5, "category_id": 7, "segmentation": [[1, 2, 3]]},
        {
            "id": 24,
            "image_id": 5,
            "category_id": 7,
            "segmentation": {"size": [9, 9], "counts": "x"},
        },
        {
            "id": 25,
            "image_id": 5,
            "category_id": 7,
            "segmentation": {"size": [10, 20], "counts": [1, 2]},
        },
        {"id": 26, "image_id": 5, "category_id": 7, "bbox": [10**400, 2.5, 3, 4]},
        "nonsense",
    ]
    source = dataset(tmp_path / "in", content(annotations=good + bad))
    conversion, _ = converted("coco", source, tmp_path / "out")
    assert conversion.files["all"].annotations == len(good)
    assert sum(note.count for note in conversion.notes.dropped.values()) == len(bad)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b'{"images": [', r"labels\.json: not valid JSON at line 1, column 13"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "as COCO.s results are. Say by --results-of"),
        (b"\xff\xff\xff", "not text"),
        (b'{"images": [{"id": ' + b"9" * 5000 + b"}]}", "cannot be read as JSON"),
        (json.dumps(content(categories=[{"id": 1}])).encode(), r"categories\[0\] has no name"),
        (json.dumps(content(categories=[{"id": 1, "name": "a"}] * 2)).encode(), "there twice"),
        (json.dumps(content(images=[])).encode(), "No image is left"),
        (
            json.dumps(content()).replace("[2, 3, 6, 4]", "[2, NaN, 6, 4]").encode(),
            r"annotations\[0\]: a number is NaN",
        ),
    ],
)
def test_broken_files(tmp_path, value, message):
    text(tmp_path / "in/labels.json", value)
    with pytest.raises(InputError, match=message):
        converted("coco", tmp_path / "in/labels.json", tmp_path / "out")
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path, encoding):
    source = dataset(tmp_path / "in")
    written(
        source, content(categories=[{"id": 7, "name": "Käfer"}, {"id": 90, "name": "犬"}]), encoding
    )
    conversion, _ = converted("coco", source, tmp_path / "out")
    assert list(conversion.files["all"].per_category) == ["Käfer", "犬"]
