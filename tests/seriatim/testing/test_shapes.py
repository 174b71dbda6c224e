"""The drawn dataset: what its annotations say is what its pixels show."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from seriatim.testing.shapes import CATEGORIES, make_panoptic_shapes, make_shapes


def read(path):
    return np.asarray(Image.open(path))


def test_same_seed_same_files(tmp_path):
    first, second = make_shapes(tmp_path / "a", 4, seed=3), make_shapes(tmp_path / "b", 4, seed=3)
    other = make_shapes(tmp_path / "c", 4, seed=4)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    for image in (tmp_path / "a" / "images").iterdir():
        assert image.read_bytes() == (tmp_path / "b" / "images" / image.name).read_bytes()


@pytest.mark.parametrize("size", [(96, 128), (70, 51)])
def test_box_area_and_mask_are_exact(tmp_path, size):
    coco = COCO(str(make_shapes(tmp_path, 8, size=size, rle=True)))
    assert len(coco.imgs) == 8
    assert {len(coco.getAnnIds(i)) for i in coco.imgs} >= {0}
    assert any(a["iscrowd"] for a in coco.anns.values())
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.shape == size
        assert annotation["bbox"] == coco_mask.toBbox(coco.annToRLE(annotation)).tolist()
        assert annotation["area"] == mask.sum() > 0


def test_polygons_agree_with_masks(tmp_path):
    polygons = COCO(str(make_shapes(tmp_path / "p", 8)))
    masks = COCO(str(make_shapes(tmp_path / "m", 8, rle=True)))
    for key, annotation in polygons.anns.items():
        ours, theirs = masks.annToRLE(masks.anns[key]), polygons.annToRLE(annotation)
        # COCO's own rasteriser counts pixels that a polygon touches; it differs along the outline.
        assert coco_mask.iou([ours], [theirs], [0])[0, 0] > 0.75
        assert masks.anns[key]["bbox"] == annotation["bbox"]


def test_pixels_under_a_mask_have_the_colour_of_the_category(tmp_path):
    coco = COCO(str(make_shapes(tmp_path, 8, rle=True)))
    strongest = {"circle": 0, "square": 1, "triangle": 2}  # RGB
    for annotation in coco.anns.values():
        if annotation["iscrowd"]:
            continue
        image = read(tmp_path / "images" / coco.imgs[annotation["image_id"]]["file_name"])
        colour = image[coco.annToMask(annotation) > 0].mean(axis=0)
        assert colour.argmax() == strongest[CATEGORIES[annotation["category_id"] - 1]]


def test_keypoints_lie_on_their_shape(tmp_path):
    coco = COCO(str(make_shapes(tmp_path, 8)))
    for annotation in coco.anns.values():
        if annotation["iscrowd"]:
            continue
        x, y, w, h = annotation["bbox"]
        points = np.reshape(annotation["keypoints"], (-1, 3))[:, :2] + 0.5
        assert (points >= (x - 2, y - 2)).all()  # a thin tip covers no pixel centre
        assert (points <= (x + w + 2, y + h + 2)).all()
        centre, top, left, right = points
        assert top[1] < centre[1]
        assert left[0] < centre[0] < right[0]


def test_panoptic_and_semantic_png_agree_with_the_instances(tmp_path):
    paths = make_panoptic_shapes(tmp_path, 5)
    coco = COCO(str(paths.instances_json))
    panoptic = json.loads(paths.panoptic_json.read_text())
    thing = {c["id"]: c["isthing"] for c in panoptic["categories"]}
    for record in panoptic["annotations"]:
        png = read(paths.panoptic_root / record["file_name"]).astype(int)
        ids = png @ [1, 256, 65536]
        semantic = read(paths.sem_seg_root / record["file_name"])
        assert set(np.unique(ids)) == {s["id"] for s in record["segments_info"]}
        for segment in record["segments_info"]:
            assert (ids == segment["id"]).sum() == segment["area"]
            expected = (
                0 if thing[segment["category_id"]] else segment["category_id"] - len(CATEGORIES)
            )
            assert (semantic[ids == segment["id"]] == expected).all()
        things = sum(thing[s["category_id"]] for s in record["segments_info"])
        assert things == len(coco.getAnnIds(record["image_id"]))


def test_no_torch():
    code = "import sys, seriatim.testing.shapes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
