"""Mask images that hold all instances of an image, and folders of classes."""

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools.coco import Annotation, Category, Image, write_coco
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.palette import save_numbers
from dataset_tools.rle import decode_mask, encode_mask
from tests.dataset_tools.makers import converted, mask_picture, picture

# 20 × 10 px: instance 1 at x 2–5, y 1–4; instance 300 (or 7) at x 10–19, y 3–9.
FIRST, SECOND = np.zeros((2, 10, 20), bool)
FIRST[1:4, 2:5] = True
SECOND[3:9, 10:19] = True


def whole(folder, mask_name="masks/a.png", second=7, form="indexed"):
    picture(folder / "images/a.jpg")
    numbers = np.where(FIRST, 1, np.where(SECOND, second, 0))
    path = folder / mask_name
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "indexed":
        save_numbers(path, numbers)
    elif form == "16 bits":
        Pillow.fromarray(numbers.astype(np.uint16)).save(path)
    else:
        colours = np.zeros((10, 20, 3), np.uint8)
        colours[FIRST], colours[SECOND] = (0, 200, 0), (255, 0, 9)
        Pillow.fromarray(colours).save(path)
    return folder


@pytest.mark.parametrize(
    ("form", "second", "told"),
    [("indexed", 7, "values"), ("16 bits", 300, "values"), ("colours", 7, "colours")],
)
def test_each_number_or_colour_is_an_instance(tmp_path, form, second, told):
    source = whole(tmp_path / "in", second=second, form=form)
    conversion, splits = converted("masks", source, tmp_path / "out")
    objects = splits["all"]["images/a.jpg"]["objects"]
    boxes = sorted(box for _, box, _ in objects)
    assert boxes == [[2, 1, 3, 3], [10, 3, 9, 6]]
    masks = [decode_mask(entry["segmentation"]).astype(bool) for _, _, entry in objects]
    assert any(np.array_equal(mask, SECOND) for mask in masks)
    assert any(f"--encoding {told}" in remark for remark in conversion.plan.remarks)


def test_other_readings_of_the_same_file(tmp_path):
    source = whole(tmp_path / "in")
    _, splits = converted("masks", source, tmp_path / "out", encoding="binary")
    ((_, box, entry),) = splits["all"]["images/a.jpg"]["objects"]
    assert box == [2, 1, 17, 8] and entry["area"] == FIRST.sum() + SECOND.sum()
    _, splits = converted("masks", source, tmp_path / "out", void=7)
    assert [box for _, box, _ in splits["all"]["images/a.jpg"]["objects"]] == [[2, 1, 3, 3]]


@pytest.mark.parametrize(
    "mask",
    [
        "masks/cat/a.png",
        "masks/cat/a/1.png",
        "class_masks/cat/a.png",
        "class_masks/cat/a/1.png",
    ],
)
def test_folders_of_classes(tmp_path, mask):
    picture(tmp_path / "in/images/a.jpg")
    mask_picture(tmp_path / "in" / mask, FIRST)
    mask_picture(tmp_path / "in" / mask.replace("cat", "dog"), SECOND)
    conversion, splits = converted("auto", tmp_path / "in", tmp_path / "out")
    assert [(name, box) for name, box, _ in splits["all"]["images/a.jpg"]["objects"]] == [
        ("cat", [2, 1, 3, 3]),
        ("dog", [10, 3, 9, 6]),
    ]
    assert "categories are the folders of masks" in conversion.plan.remarks


def exported(folder, annotations, categories=("cat", "dog"), **options):
    picture(folder / "photos/x/a.jpg")
    write_coco(
        folder / "all.json",
        [Image("x/a.jpg", 20, 10, annotations)],
        [Category(name) for name in categories],
        {"image_root": "photos"},
    )
    return export_dataset("masks", {None: folder / "all.json"}, folder / "out", **options)


@pytest.mark.parametrize("style", ["indexed", "id16", "rgb"])
def test_what_is_written(tmp_path, style):
    objects = [Annotation("dog", segmentation=encode_mask(mask)) for mask in (FIRST, SECOND)]
    exported(tmp_path, objects, style=style)
    with Pillow.open(tmp_path / "out/class_masks/dog/x/a.png") as png:
        assert png.mode == {"indexed": "P", "id16": "I;16", "rgb": "RGB"}[style]
        pixels = np.asarray(png)
    numbers = pixels[..., 0] if style == "rgb" else pixels
    assert np.array_equal(numbers, np.where(FIRST, 1, np.where(SECOND, 2, 0)))


def test_a_dataset_without_masks_is_not_written(tmp_path):
    crowd = Annotation("cat", segmentation=encode_mask(FIRST), iscrowd=True)
    with pytest.raises(InputError, match="None of the 2 objects has a mask"):
        exported(tmp_path, [Annotation("cat", (1, 1, 2, 2)), crowd])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_counted(tmp_path):
    mask = encode_mask(FIRST)
    objects = [
        Annotation("cat", (1, 1, 2, 2)),
        Annotation("cat", segmentation=mask, iscrowd=True),
        Annotation("cat", segmentation=mask, attributes={"age": 3}, keypoints=[1, 1, 2]),
    ]
    export = exported(tmp_path, objects, classes="none")
    assert {kind: note.count for kind, note in export.notes.dropped.items()} == {
        "object without a mask": 1,
        "crowd": 1,
        "attribute age": 1,
        "keypoints": 1,
    }
    assert [p.name for p in (tmp_path / "out/masks/x/a").iterdir()] == ["0001.png"]


def test_what_the_style_or_a_folder_cannot_hold_is_refused(tmp_path):
    dots = []
    for place in range(256):
        mask = np.zeros((20, 20), bool)
        mask[place // 20, place % 20] = True
        dots.append(Annotation("cat", segmentation=encode_mask(mask)))
    picture(tmp_path / "photos/a.jpg", 20, 20)
    info = {"image_root": "photos"}
    write_coco(tmp_path / "all.json", [Image("a.jpg", 20, 20, dots)], [Category("cat")], info)
    with pytest.raises(InputError, match="256 instances, but --style indexed"):
        export_dataset("masks", {None: tmp_path / "all.json"}, tmp_path / "out", style="indexed")
    with pytest.raises(InputError, match="'a/b' cannot name a folder"):
        exported(tmp_path / "2", [Annotation("c", segmentation=encode_mask(FIRST))], ["a/b", "c"])
