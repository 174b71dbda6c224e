import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, mask_picture, picture, text

SHAPE = (10, 20)


def blob(top, left, bottom, right):
    mask = np.zeros(SHAPE, bool)
    mask[top:bottom, left:right] = True
    return mask


RING = blob(2, 3, 8, 12) & ~blob(4, 5, 6, 9)
BLOBS = {"a": blob(0, 0, 4, 5), "b": blob(3, 10, 10, 20), "ring": RING}


def layout_of_the_bowl(folder, masks=BLOBS):
    picture(folder / "x1/images/x1.png")
    for name, mask in masks.items():
        mask_picture(folder / f"x1/masks/{name}.png", mask)
    return folder


def layout_by_kind(folder):
    picture(folder / "images/x1.jpg")
    for name, mask in BLOBS.items():
        mask_picture(folder / f"masks/x1/{name}.png", mask)
    return folder


def decoded(entry):
    segmentation = entry["segmentation"]
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *SHAPE))
    return coco_mask.decode(segmentation).astype(bool)


@pytest.mark.parametrize("layout", [layout_of_the_bowl, layout_by_kind])
@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_masks_boxes_and_areas_are_exact(tmp_path, layout, segmentation):
    source = layout(tmp_path / "in")
    conversion, splits = converted("masks", source, tmp_path / "out", segmentation=segmentation)
    (image,) = splits["all"].values()
    assert image["size"] == (20, 10)
    for (_, bbox, entry), mask in zip(image["objects"], BLOBS.values(), strict=True):
        rows, columns = np.nonzero(mask)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert bbox == [columns.min(), rows.min(), width, height]
        assert entry["area"] == mask.sum()
        assert (decoded(entry) == mask).all()
    kinds = [type(entry["segmentation"]) for *_, entry in image["objects"]]
    # Polygons cannot have holes, so the ring stays a run-length code, which is told.
    assert kinds == ([dict] * 3 if segmentation == "rle" else [list, list, dict])
    assert len(conversion.notes.suspicious) == (segmentation == "polygon")


def test_the_category_can_be_named_and_folders_stand_for_splits(tmp_path):
    for split in ("train", "test"):
        layout_of_the_bowl(tmp_path / "in" / split)
    _, splits = converted("masks", tmp_path / "in", tmp_path / "out", category="nucleus")
    assert list(splits) == ["train", "test"]
    assert list(splits["test"]) == ["test/x1/images/x1.png"]
    assert splits["test"]["test/x1/images/x1.png"]["objects"][0][0] == "nucleus"


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA", "I;16"])
def test_kinds_of_mask_images(tmp_path, mode):
    source = layout_of_the_bowl(tmp_path / "in", {})
    (source / "x1/masks").mkdir()
    values = BLOBS["a"].astype(np.uint16 if mode == "I;16" else np.uint8) * 255
    made = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values).convert(mode)
    made.save(source / "x1/masks/a.png")
    _, splits = converted("masks", source, tmp_path / "out")
    ((_, _, entry),) = splits["all"]["x1/images/x1.png"]["objects"]
    assert (decoded(entry) == BLOBS["a"]).all()


def test_what_is_odd_is_told(tmp_path):
    source = layout_of_the_bowl(tmp_path / "in", {"a": BLOBS["a"], "empty": blob(0, 0, 0, 0)})
    picture(source / "x2/images/x2.png")
    mask_picture(source / "x3/masks/lonely.png", BLOBS["a"])
    grey = np.arange(200, dtype=np.uint8).reshape(SHAPE)
    Image.fromarray(grey).save(source / "x1/masks/grey.png")
    conversion, splits = converted("masks", source, tmp_path / "out")
    assert [len(image["objects"]) for image in splits["all"].values()] == [2, 0]
    notes = conversion.notes
    assert set(notes.dropped) == {"mask without a pixel", "mask whose image is not there"}
    assert set(notes.suspicious) == {
        "image without a mask (kept, without objects)",
        "mask with more than two values (all but 0 taken)",
    }


def test_masks_of_another_size_or_broken_are_named(tmp_path):
    source = layout_of_the_bowl(tmp_path / "in")
    file = mask_picture(source / "x1/masks/wide.png", np.ones((10, 21), bool))
    with pytest.raises(InputError, match=r"wide\.png: the mask is 21×10, but its image"):
        converted("masks", source, tmp_path / "out")
    text(file, b"\x89PNG\r\n\x1a\n cut off")
    with pytest.raises(InputError, match=r"wide\.png: cannot be read"):
        converted("masks", source, tmp_path / "out")


def test_a_folder_without_masks(tmp_path):
    picture(tmp_path / "in/images/a.jpg")
    with pytest.raises(InputError, match="found no ID/images"):
        converted("masks", tmp_path / "in", tmp_path / "out")
