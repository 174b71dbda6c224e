"""COCO's files besides instances, read, joined and written."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image as Pillow
from pycocotools.coco import COCO

from dataset_tools.coco import Annotation, Category, Image, load_coco, write_coco
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.rle import encode_mask
from tests.dataset_tools.makers import converted, picture, text

IMAGES = [{"id": 5, "file_name": "a.jpg", "width": 20, "height": 10}]
CAT = {"id": 7, "name": "cat"}


def labels(folder, name, annotations, categories=(CAT,), images=IMAGES):
    picture(folder / "a.jpg")
    value = {"images": images, "annotations": annotations, "categories": list(categories)}
    return text(folder / f"{name}.json", json.dumps(value))


BOX = {"id": 1, "image_id": 5, "category_id": 7, "bbox": [2, 3, 6, 4], "area": 24, "iscrowd": 0}
CAPTION = {"id": 1, "image_id": 5, "caption": "Eine Katze."}


def test_captions_are_kept_with_their_image(tmp_path):
    captions = [CAPTION, CAPTION | {"id": 2, "caption": "猫"}]
    faulty = [CAPTION | {"image_id": 6}, CAPTION | {"caption": 3}]
    source = labels(tmp_path / "in", "captions_val", captions + faulty, categories=())
    conversion, splits = converted("coco", source, tmp_path / "out")
    assert splits["all"]["a.jpg"]["entry"]["attributes"] == {"captions": ["Eine Katze.", "猫"]}
    assert {k: n.places[0][-14:] for k, n in conversion.notes.dropped.items()} == {
        "caption whose image_id no image has": "annotations[2]",
        "caption that is no text": "annotations[3]",
    }


def test_files_of_a_split_are_joined_by_the_ids_of_their_images(tmp_path):
    folder = tmp_path / "in"
    labels(folder, "instances_val2017", [BOX, BOX | {"id": 2}])
    named = CAT | {"keypoints": ["nose"], "skeleton": []}
    labels(folder, "person_keypoints_val2017", [BOX | {"keypoints": [4, 5, 2]}], [named])
    labels(folder, "captions_val2017", [CAPTION], ())
    sky = {"id": 106, "name": "sky", "isthing": 0}
    labels(folder, "stuff_val2017", [BOX | {"id": 9, "category_id": 106}], [sky])
    conversion, splits = converted("coco", folder, tmp_path / "out")
    image = splits["val"]["a.jpg"]
    assert image["entry"]["attributes"] == {"captions": ["Eine Katze."]}
    assert [(name, entry.get("keypoints")) for name, _, entry in image["objects"]] == [
        ("cat", [4, 5, 2]),
        ("cat", None),
        ("sky", None),
    ]
    cat, sky = load_coco(tmp_path / "out/val.json").categories
    assert cat.keypoints == ("nose",) and sky.extra == {"isthing": 0}
    assert len(conversion.plan.remarks) == 3


def test_files_that_disagree_on_an_image_are_not_joined(tmp_path):
    labels(tmp_path / "in", "instances_val", [BOX])
    labels(tmp_path / "in", "captions_val", [], images=[IMAGES[0] | {"file_name": "b.jpg"}])
    with pytest.raises(InputError, match=r"image 5 is b\.jpg, but a\.jpg in another"):
        converted("coco", tmp_path / "in", tmp_path / "out")


def test_results_need_the_file_of_their_images(tmp_path):
    of = labels(tmp_path / "in", "instances_val", [BOX])
    result = {"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
    entries = [result, result | {"image_id": 6}, 3]
    file = text(tmp_path / "in/results.json", json.dumps(entries))
    with pytest.raises(InputError, match="--results-of"):
        converted("coco", file, tmp_path / "out")
    conversion, splits = converted("coco", file, tmp_path / "out", results_of=str(of))
    ((name, box, entry),) = splits["all"]["a.jpg"]["objects"]
    assert (name, box, entry["attributes"]) == ("cat", [1, 2, 3, 4], {"score": 0.5})
    assert sum(note.count for note in conversion.notes.dropped.values()) == 2


# What is written, checked by COCO's own tools.


def exported(folder, annotations, categories=("cat",), image_attributes=None, **options):
    picture(folder / "photos/x/a.jpg")
    categories = [c if isinstance(c, Category) else Category(c) for c in categories]
    image = Image("x/a.jpg", 20, 10, annotations, attributes=image_attributes or {})
    write_coco(folder / "val.json", [image], categories, {"image_root": "photos"})
    return export_dataset("coco", {"val": folder / "val.json"}, folder / "out", **options)


def opened(path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_what_a_plain_tool_finds(tmp_path):
    box = Annotation("cat", (2, 3, 8, 7), attributes={"age": 3})
    captions = {"captions": ["one", "two"], "license": 4, "weather": "rain"}
    export = exported(tmp_path, [box], image_attributes=captions)
    assert any("instances, captions" in remark for remark in export.notes.remarks)
    assert (tmp_path / "out/val/x/a.jpg").is_file()
    instances = opened(tmp_path / "out/annotations/instances_val.json")
    assert [entry["bbox"] for entry in instances.loadAnns(instances.getAnnIds())] == [[2, 3, 6, 4]]
    captions = opened(tmp_path / "out/annotations/captions_val.json")
    assert [entry["caption"] for entry in captions.loadAnns(captions.getAnnIds(1))] == [
        "one",
        "two",
    ]
    assert captions.imgs[1]["license"] == 4
    assert instances.imgs[1]["attributes"] == {"weather": "rain"}


def test_attributes_can_be_left_out(tmp_path):
    box = Annotation("cat", (2, 3, 8, 7), attributes={"age": 3})
    of_image = {"license": 4, "weather": "rain"}
    options = {"attributes": "drop", "photos": "none"}
    exported(tmp_path, [box], image_attributes=of_image, **options)
    content = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert content["images"][0].keys() == {"id", "file_name", "width", "height", "license"}
    assert "attributes" not in content["annotations"][0]
    assert not (tmp_path / "out/val").exists()


def test_kinds_divide_the_objects(tmp_path):
    sky = Category("sky", extra={"isthing": 0})
    person = Category("person", keypoints=("nose",))
    objects = [
        Annotation("person", (1, 1, 4, 4), keypoints=[2, 2, 2]),
        Annotation("sky", (0, 0, 20, 3)),
        Annotation("cat", (5, 5, 9, 9)),
    ]
    kinds = "instances, keypoints, stuff"
    exported(tmp_path, objects, ["cat", person, sky], kinds=kinds)

    def names(kind):
        file = opened(tmp_path / f"out/annotations/{kind}_val.json")
        return [file.cats[a["category_id"]]["name"] for a in file.anns.values()]

    assert names("instances") == ["person", "cat"]
    assert names("person_keypoints") == ["person"]
    assert names("stuff") == ["sky"]
    export = exported(tmp_path / "2", objects, ["cat", person, sky], kinds="stuff,keypoints")
    assert [note.count for note in export.notes.dropped.values()] == [1]
    with pytest.raises(InputError, match="no kind 'boxes'"):
        exported(tmp_path / "3", objects, ["cat", person, sky], kinds="boxes")


def test_panoptic_pixels_belong_to_the_smallest(tmp_path):
    large, small = np.zeros((2, 10, 20), bool)
    large[2:8, 2:10] = True
    small[4:6, 4:12] = True
    objects = [
        Annotation("cat", segmentation=encode_mask(small)),
        Annotation("cat", segmentation=encode_mask(large), iscrowd=True),
        Annotation("cat", (1, 1, 2, 2)),
    ]
    export = exported(tmp_path, objects, kinds="panoptic")
    assert [note.kind for note in export.notes.dropped.values()] == ["object without a mask"]
    assert [note.count for note in export.notes.suspicious.values()] == [1]
    content = json.loads((tmp_path / "out/annotations/panoptic_val.json").read_text())
    (entry,) = content["annotations"]
    assert entry["file_name"] == "x/a.png"
    colours = np.asarray(Pillow.open(tmp_path / "out/annotations/panoptic_val/x/a.png"))
    assert np.array_equal(colours[..., 0], np.where(small, 1, np.where(large, 2, 0)))
    assert not colours[..., 1:].any()
    assert [(s["area"], s["bbox"], s["iscrowd"]) for s in entry["segments_info"]] == [
        (16, [4, 4, 8, 2], 0),
        (36, [2, 2, 8, 6], 1),
    ]
    assert content["categories"][0]["isthing"] == 1


def test_results_load_as_such(tmp_path):
    objects = [
        Annotation("cat", (1, 2, 5, 8), attributes={"score": 0.5}),
        Annotation("cat", (0, 0, 4, 4), [[0, 0, 4, 0, 4, 4, 0, 4]]),
    ]
    export = exported(tmp_path, objects, kinds="instances,results")
    assert [note.count for note in export.notes.suspicious.values()] == [1]
    truth = opened(tmp_path / "out/annotations/instances_val.json")
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes(str(tmp_path / "out/annotations/results_val.json"))
    assert [a["score"] for a in results.anns.values()] == [0.5, 1]
    assert [a["bbox"] for a in results.anns.values()] == [[1, 2, 4, 6], [0, 0, 4, 4]]
    content = json.loads((tmp_path / "out/annotations/results_val.json").read_text())
    assert isinstance(content[1]["segmentation"], dict)
