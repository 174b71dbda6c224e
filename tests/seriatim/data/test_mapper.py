"""The mapper: what it says about an image is what can be seen in that image."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, PolygonMasks, RotatedBoxes
from PIL import Image
from shapely.geometry import Polygon

from dataset_tools.errors import InputError
from seriatim.data.mapper import SeriatimMapper, build_augmentations, paste
from seriatim.data.objects import (
    is_mirrored,
    mask_to_bitmap,
    read_objects,
    rotated_corners,
    transform_rotated_boxes,
)
from seriatim.testing.shapes import draw_scene, encode_rle

SIZE = (160, 200)
TURNS = {
    "plain": {},
    "flips": {"HFLIP": 1.0, "VFLIP": 0.5},
    "rot90": {"ROT90": 1.0, "HFLIP": 0.5},
    "large-scale jitter": {"SCALE": (0.3, 2.0), "HFLIP": 0.5},
    "original scale": {"SCALE": (0.8, 1.5), "SCALE_FROM_ORIGINAL": True, "HFLIP": 0.5},
    "mosaic": {"MOSAIC": 1.0, "SCALE": (1.0, 2.0), "HFLIP": 0.5},
    "copy-paste": {"COPY_PASTE": 1.0, "HFLIP": 0.5},
    "all": {"MOSAIC": 0.5, "COPY_PASTE": 0.5, "ROT90": 0.5, "HFLIP": 0.5, "VFLIP": 0.5},
}


@pytest.fixture
def flat_records(tmp_path):
    """Drawn scenes repainted: black, each object in a grey of its own, none the padding's 114."""
    records = []
    for index in range(6):
        shapes = [s for s in draw_scene(1, index, (120, 160))[1] if not s.crowd]
        image = np.zeros((120, 160, 3), np.uint8)
        annotations = []
        for i, shape in enumerate(shapes):
            image[shape.mask] = 8 * (i + 1) + (index % 2) * 4
            keypoints = np.c_[shape.keypoints, [2, 2, 2, 2]].ravel().tolist()
            annotations.append(
                {
                    "bbox": list(shape.box),
                    "bbox_mode": 0,
                    "category_id": i,
                    "iscrowd": 0,
                    "segmentation": encode_rle(shape.mask)
                    if i % 2
                    else [shape.polygon.ravel().tolist()],
                    "keypoints": keypoints,
                }
            )
        path = tmp_path / f"{index}.png"
        Image.fromarray(image).save(path)
        records.append(
            {
                "file_name": str(path),
                "height": 120,
                "width": 160,
                "image_id": index,
                "annotations": annotations,
            }
        )
    return records


def build(config, aug, **kwargs):
    cfg = config()
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.SERIATIM.AUG.ENABLED = True
    cfg.SERIATIM.AUG.SIZE = SIZE
    cfg.SERIATIM.AUG.SCALE = (0.7, 1.4)
    for key, value in aug.items():
        cfg.SERIATIM.AUG[key] = value
    return SeriatimMapper(cfg, is_train=True, keep_transforms=True, **kwargs)


def grow(mask, px):
    """`mask` grown by `px`, or shrunk where that is negative."""
    kernel = np.ones((2 * abs(px) + 1,) * 2, np.uint8)
    change = cv2.dilate if px > 0 else cv2.erode
    return change(mask.astype(np.uint8), kernel, borderValue=int(px < 0)) > 0


@pytest.mark.parametrize("name", TURNS)
def test_annotations_lie_where_their_objects_are_seen(config, flat_records, name):
    mapper = build(config, TURNS[name])
    mapper.use_pool(flat_records)
    checked = 0
    for seed in range(40):
        np.random.seed(seed)
        result = mapper(flat_records[seed % len(flat_records)])
        image = result["image"].numpy()[0].astype(int)
        assert image.shape == SIZE
        instances = result["instances"]
        assert (instances.gt_classes == instances.gt_annotation).all()
        masks = instances.gt_masks.tensor.numpy()
        for i, mask in enumerate(masks):
            source = result["sources"][instances.gt_source[i]]
            index = int(Path(source.file_name).stem)
            grey = 8 * (int(instances.gt_annotation[i]) + 1) + (index % 2) * 4
            seen = np.abs(image - grey) <= 1
            x0, y0, x1, y1 = source.window
            window = np.zeros(SIZE, bool)
            window[y0:y1, x0:x1] = True
            inner = grow(mask & window, -2)
            if inner.sum() < 20:
                continue
            assert (seen & inner).sum() > 0.99 * inner.sum()
            if len(result["sources"]) == 1:  # else another image may hold the same grey
                # Outlines pass through all greys: only what is 5 px thick counts as seen.
                thick = grow(grow(seen, -2), 2)
                assert not (thick & ~grow(mask, 2)).any()
            rows, columns = np.nonzero(mask)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(instances.gt_boxes.tensor[i].numpy() - tight).max() <= 1
            checked += 1
    assert checked > 40


def expected_by_inverse(result, records):
    """Yields (instance, its original annotation, its corners mapped back, source)."""
    instances = result["instances"]
    by_name = {record["file_name"]: record for record in records}
    for i in range(len(instances)):
        source = result["sources"][instances.gt_source[i]]
        annotation = by_name[source.file_name]["annotations"][instances.gt_annotation[i]]
        yield instances[i], annotation, source


@pytest.mark.parametrize("name", ["flips", "rot90", "mosaic", "all"])
def test_inverse_brings_keypoints_home(config, flat_records, name):
    mapper = build(config, TURNS[name])
    mapper.use_pool(flat_records)
    checked = 0
    for seed in range(30):
        np.random.seed(seed)
        result = mapper(flat_records[seed % len(flat_records)])
        for instance, annotation, source in expected_by_inverse(result, flat_records):
            points = instance.gt_keypoints.tensor[0].numpy().astype(float)
            original = np.reshape(annotation["keypoints"], (4, 3))
            mirrored = is_mirrored(source.transforms)
            if mirrored:
                original = original[[0, 1, 3, 2]]  # left and right change places
            labelled = points[:, 2] > 0
            back = source.transforms.inverse().apply_coords(points[:, :2].copy())
            np.testing.assert_allclose(back[labelled], original[labelled, :2], atol=1e-3)
            assert (points[~labelled] == 0).all()
            checked += labelled.sum()
    assert checked > 100


def test_mirrored_left_is_left_again(config, flat_records):
    mapper = build(config, {"HFLIP": 1.0, "SCALE": (0.5, 0.5)})
    for record in flat_records:
        for instance in range(len(mapper(record)["instances"])):
            x = mapper(record)["instances"].gt_keypoints.tensor[instance, :, 0]
            assert x[2] < x[0] < x[3]


def test_is_mirrored():
    flip, flop = T.HFlipTransform(10), T.VFlipTransform(20)
    assert is_mirrored(T.TransformList([flip]))
    assert is_mirrored(T.TransformList([flop]))
    assert not is_mirrored(T.TransformList([flip, flop]))
    assert not is_mirrored(T.TransformList([]))


def test_keypoints_outside_become_unlabelled_and_unlabelled_ones_stay(config, flat_records):
    record = flat_records[0]
    record["annotations"][0]["keypoints"][2] = 0
    mapper = build(config, {"SCALE": (2.5, 2.5), "MIN_AREA_SHARE": 0.0})
    seen = 0
    for seed in range(20):
        np.random.seed(seed)
        instances = mapper(record)["instances"]
        for i in range(len(instances)):
            points = instances.gt_keypoints.tensor[i]
            outside = (
                (points[:, :2] < 0).any(1) | (points[:, 0] > SIZE[1]) | (points[:, 1] > SIZE[0])
            )
            assert not outside.any()
            if instances.gt_annotation[i] == 0:
                assert (points[0] == 0).all()
                seen += 1
    assert seen


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_cropped_objects_are_dropped_by_the_share_that_is_left(config, flat_records, share):
    mapper = build(config, {"SCALE": (2.0, 2.5), "MIN_AREA_SHARE": share, "HFLIP": 0.0})
    dropped = 0
    for seed in range(20):
        np.random.seed(seed)
        record = flat_records[seed % len(flat_records)]
        result = mapper(record)
        transforms = result["transforms"]
        kept = set(result["instances"].gt_annotation.tolist())
        for i, annotation in enumerate(record["annotations"]):
            box = transforms.apply_box(np.array([annotation["bbox"]], float))[0]
            width = min(box[2], SIZE[1]) - max(box[0], 0)
            height = min(box[3], SIZE[0]) - max(box[1], 0)
            left = max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))
            if left > share + 0.01 and left > 0.1:
                assert i in kept
            elif left < share - 0.01 or left == 0:
                assert i not in kept
                dropped += 1
    assert dropped


# Against Detectron2's own mapper


def within_rounding(a, b):
    return a.shape == b.shape and int((a.int() - b.int()).abs().max()) <= 1


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_without_augmentation_as_detectron2s_mapper(config, mask_format):
    cfg = config()
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.INPUT.MASK_FORMAT = mask_format
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (150,), "horizontal"
    for record in DatasetCatalog.get("shapes"):
        results = []
        for mapper in (SeriatimMapper(cfg, True), DatasetMapper(cfg, True)):
            np.random.seed(record["image_id"])
            results.append(mapper(record))
        ours, theirs = results
        assert ours.keys() == theirs.keys()
        assert within_rounding(ours["image"], theirs["image"])
        a, b = ours["instances"], theirs["instances"]
        assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
        assert torch.equal(a.gt_classes, b.gt_classes)
        if not len(b):
            continue
        torch.testing.assert_close(a.gt_keypoints.tensor, b.gt_keypoints.tensor)
        if mask_format == "bitmask":
            assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)
        else:
            for x, y in zip(a.gt_masks.polygons, b.gt_masks.polygons, strict=True):
                np.testing.assert_allclose(x, y)


def test_testing_is_as_detectron2s_mapper(config):
    cfg = config()
    cfg.SERIATIM.AUG.ENABLED = True
    record = DatasetCatalog.get("shapes")[0]
    ours, theirs = SeriatimMapper(cfg, False)(record), DatasetMapper(cfg, False)(record)
    assert within_rounding(ours.pop("image"), theirs.pop("image"))
    assert ours == theirs


def test_the_record_is_not_changed(config, flat_records):
    mapper = build(config, TURNS["all"])
    mapper.use_pool(flat_records)
    before = json.dumps(flat_records)
    for record in flat_records:
        mapper(record)
    assert json.dumps(flat_records) == before


def test_debugging_is_the_same_twice_and_the_test_image(config):
    cfg = config()
    cfg.MODEL.MASK_ON = True
    cfg.SERIATIM.AUG.ENABLED = cfg.SERIATIM.DETERMINISTIC_DEBUG = True
    cfg.SERIATIM.AUG.MOSAIC = 1.0
    mapper, record = SeriatimMapper(cfg, True), DatasetCatalog.get("shapes")[0]
    mapper.use_pool([record] * 3)
    first, second = mapper(record), mapper(record)
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["image"], SeriatimMapper(cfg, False)(record)["image"])
    assert len(first["instances"]) == len(record["annotations"])


def test_crowds_and_images_without_objects(config):
    cfg = config()
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    mapper = SeriatimMapper(cfg, True)
    for record in DatasetCatalog.get("shapes"):
        plain = [a for a in record["annotations"] if not a["iscrowd"]]
        instances = mapper(record)["instances"]
        assert len(instances) == len(plain)
        assert isinstance(instances.gt_masks, PolygonMasks)
        assert instances.gt_keypoints.tensor.shape == (len(plain), 4, 3)
        assert "gt_source" not in instances.get_fields()
    cfg.INPUT.MASK_FORMAT = "bitmask"
    empty = next(r for r in DatasetCatalog.get("shapes") if not r["annotations"])
    instances = SeriatimMapper(cfg, True)(empty)["instances"]
    assert isinstance(instances.gt_masks, BitMasks)
    assert isinstance(instances.gt_boxes, Boxes)
    assert len(instances) == 0


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
def test_channels(config, image_format):
    cfg = config()
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = image_format, 0
    record = DatasetCatalog.get("shapes")[0]
    image = SeriatimMapper(cfg, False)(record)["image"].numpy()
    expected = np.asarray(Image.open(record["file_name"]))
    if image_format == "L":
        expected = np.asarray(Image.open(record["file_name"]).convert("L"))[:, :, None]
    elif image_format == "BGR":
        expected = expected[:, :, ::-1]
    np.testing.assert_array_equal(image, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("image_format", ["BGR", "L"])
def test_cached_images_stay_as_they_are(config, image_format, tmp_path):
    cfg = config()
    cfg.SERIATIM.CACHE_MIB, cfg.SERIATIM.DATA.CACHE_DIR = 10, str(tmp_path / "cache")
    cfg.INPUT.FORMAT, cfg.SERIATIM.AUG.ENABLED = image_format, True
    cfg.SERIATIM.AUG.SIZE, cfg.SERIATIM.AUG.SCALE = (96, 128), (1.0, 1.0)
    cfg.SERIATIM.AUG.HFLIP = 0.0
    mapper = SeriatimMapper(cfg, True)
    record = DatasetCatalog.get("shapes")[0]
    first = mapper(record)["image"]
    first += 1  # a model may do what it likes with its input
    assert len(list((tmp_path / "cache" / "decoded").iterdir())) == 1
    assert torch.equal(mapper(record)["image"] + 1, first)


# Mosaic and copy-paste


@pytest.mark.parametrize("aug", [{"MOSAIC": 1.0}, {"MOSAIC": 0.5, "ROT90": 0.5, "VFLIP": 0.5}])
def test_boxes_alone_follow_the_transforms_of_their_source(config, flat_records, aug):
    mapper = build(config, aug, use_instance_mask=False, recompute_boxes=False)
    mapper.use_pool(flat_records)
    quarters = set()
    for seed in range(10):
        np.random.seed(seed)
        result = mapper(flat_records[seed % len(flat_records)])
        for instance, annotation, source in expected_by_inverse(result, flat_records):
            moved = source.transforms.apply_box(np.array([annotation["bbox"]], dtype=float))[0]
            x0, y0, x1, y1 = source.window
            quarters.add((x0 > 0, y0 > 0))
            expected = np.clip(moved, [x0, y0, x0, y0], [x1, y1, x1, y1])
            np.testing.assert_allclose(instance.gt_boxes.tensor[0], expected, atol=1e-3)
    assert len(quarters) == 4


def test_mosaic_tiles_four_images(config, flat_records):
    mapper = build(config, {"MOSAIC": 1.0})
    mapper.use_pool(flat_records)
    area = np.zeros(SIZE, int)
    sources = mapper(flat_records[2])["sources"]
    assert sources[0].file_name == flat_records[2]["file_name"]
    for source in sources:
        x0, y0, x1, y1 = source.window
        area[y0:y1, x0:x1] += 1
    assert (area == 1).all()
    assert len(sources) == 4


def test_no_mixing_without_a_pool(config, flat_records):
    mapper = build(config, {"MOSAIC": 1.0, "COPY_PASTE": 1.0})
    assert len(mapper(flat_records[0])["sources"]) == 1


def test_pasted_objects_hide_what_is_behind(config, flat_records):
    mapper = build(config, {"COPY_PASTE": 1.0, "HFLIP": 0.0, "SCALE": (1.0, 1.0)})
    hidden = 0
    for seed in range(40):
        np.random.seed(seed)
        sample = mapper._augmented(flat_records[seed % 6])
        other = mapper._augmented(flat_records[(seed * 5 + 3) % 6])
        result = paste(sample, other, 0.3)
        masks = [mask_to_bitmap(mask, SIZE) for mask in result.objects.masks]
        pasted = result.objects.source == 1
        cover = np.any([m for m, p in zip(masks, pasted, strict=True) if p] or [np.zeros(SIZE)], 0)
        cover = cover.astype(bool)
        np.testing.assert_array_equal(result.image[cover], other.image[cover])
        np.testing.assert_array_equal(result.image[~cover], sample.image[~cover])
        kept = dict(zip(result.objects.annotation[~pasted], np.flatnonzero(~pasted), strict=True))
        for i, mask in enumerate(sample.objects.masks):
            bitmap = mask_to_bitmap(mask, SIZE)
            visible = bitmap & ~cover
            assert (sample.objects.annotation[i] in kept) == (visible.sum() >= 0.3 * bitmap.sum())
            if sample.objects.annotation[i] in kept:
                np.testing.assert_array_equal(masks[kept[sample.objects.annotation[i]]], visible)
            hidden += visible.sum() < bitmap.sum()
    assert hidden > 3
    assert len(sample.objects) == len(mapper._augmented(flat_records[seed % 6]).objects)


def test_copy_paste_of_boxes_without_mask_output(config, flat_records):
    mapper = build(config, {"COPY_PASTE": 1.0}, use_instance_mask=False, recompute_boxes=False)
    mapper.use_pool(flat_records)
    np.random.seed(0)
    fields = mapper(flat_records[0])["instances"].get_fields()
    assert "gt_masks" not in fields


# Labels of pixels


@pytest.mark.parametrize("name", ["standard", "separated", "semantic"])
def test_labels_move_with_the_image(config, panoptic_entries, name):
    cfg = config(panoptic_entries[name])
    cfg.SERIATIM.AUG.ENABLED = True
    cfg.SERIATIM.AUG.SIZE, cfg.SERIATIM.AUG.MOSAIC = (96, 128), 0.5
    cfg.INPUT.FORMAT = "RGB"
    mapper = SeriatimMapper(cfg, True)
    records = DatasetCatalog.get(name)
    mapper.use_pool(records)
    sky, ground = {"standard": (3, 4)}.get(name, (1, 2))
    for seed, record in enumerate(records):
        np.random.seed(seed)
        result = mapper(record)
        image, labels = result["image"].numpy().astype(int), result["sem_seg"].numpy()
        assert labels.dtype == np.int64
        assert labels.shape == image.shape[1:]
        grey = image.max(0) - image.min(0) < 60  # not one of the coloured shapes
        brightness = image.mean(0)
        for label, low, high in ((sky, 130, 210), (ground, 70, 150)):
            chosen = labels == label
            if chosen.sum() > 50:
                good = grey & (brightness > low) & (brightness < high)
                assert good[chosen].mean() > 0.95
        assert set(np.unique(labels)) <= {0, 1, 2, 3, 4, 255}


def test_segments_become_classes_and_crowds_are_ignored(config, panoptic_entries):
    cfg = config(panoptic_entries["standard"])
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (96,), "none"
    crowds = False
    for record in DatasetCatalog.get("standard"):
        areas = Counter()
        for segment in record["segments_info"]:
            areas[255 if segment["iscrowd"] else segment["category_id"]] += segment["area"]
        labels = SeriatimMapper(cfg, True)(record)["sem_seg"]
        assert Counter(labels.ravel().tolist()) == areas
        crowds = crowds or 255 in areas
    assert crowds


# Rotated boxes


def random_boxes(rng, count=20):
    return np.c_[
        rng.uniform(20, 80, (count, 2)),
        rng.uniform(2, 30, (count, 2)),
        rng.uniform(-180, 180, count),
    ]


@pytest.mark.parametrize(
    "transform",
    [
        T.HFlipTransform(100),
        T.ResizeTransform(90, 100, 50, 130),
        T.ResizeTransform(90, 100, 45, 50),
    ],
)
def test_rotated_boxes_as_detectron2_where_it_can(transform):
    boxes = random_boxes(np.random.default_rng(0))
    ours = transform_rotated_boxes(boxes, T.TransformList([transform]))
    theirs = transform.apply_rotated_box(boxes.copy())
    np.testing.assert_allclose(ours[:, :4], theirs[:, :4])
    assert np.abs((ours[:, 4] - theirs[:, 4] + 180) % 360 - 180).max() < 1e-6


def test_rotated_boxes_keep_their_corners_under_every_turn():
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng)
    turns = [
        T.HFlipTransform(100),
        T.VFlipTransform(90),
        T.RotationTransform(90, 100, 33),
        T.CropTransform(5, 7, 60, 50),
        T.ResizeTransform(90, 100, 180, 200),
    ]
    for transform in turns:
        transforms = T.TransformList([transform])
        moved = rotated_corners(transform_rotated_boxes(boxes, transforms))
        corners = transforms.apply_coords(rotated_corners(boxes).reshape(-1, 2)).reshape(-1, 4, 2)
        for a, b in zip(moved, corners, strict=True):
            # The same rectangle; flips number the corners in another order.
            assert Polygon(a).symmetric_difference(Polygon(b)).area < 1e-6 * Polygon(b).area


def test_corners_as_detectron2_draws_them():
    boxes = np.array([[50.0, 40, 20, 10, 30]])
    # cv2 takes clockwise degrees.
    expected = cv2.boxPoints(((50.0, 40.0), (20.0, 10.0), -30.0))
    assert Polygon(rotated_corners(boxes)[0]).symmetric_difference(Polygon(expected)).area < 1e-3


def test_rotated_dataset(config, entry):
    e = entry()
    content = json.loads(Path(e["JSON"]).read_text())
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x + w / 2, y + h / 2, w, h, 0.0]
    Path(e["JSON"]).write_text(json.dumps(content))
    cfg = config(e)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RRPN"
    cfg.SERIATIM.AUG.ENABLED = True
    cfg.SERIATIM.AUG.SIZE, cfg.SERIATIM.AUG.SCALE = (96, 128), (1.0, 1.5)
    for record in DatasetCatalog.get("shapes"):
        mapper = SeriatimMapper(cfg, True, keep_transforms=True)
        result = mapper(record)
        boxes = result["instances"].gt_boxes
        assert isinstance(boxes, RotatedBoxes)
        for i, box in zip(result["instances"].gt_annotation, boxes.tensor, strict=True):
            original = np.array(record["annotations"][i]["bbox"])
            moved = result["transforms"].apply_coords(original[None, :2].copy())[0]
            np.testing.assert_allclose(box[:2], moved, atol=1e-3)


def test_rotated_share_is_that_of_the_polygon():
    from seriatim.data.objects import _rotated_share

    boxes = np.array(
        [[0, 10, 10, 10, 0], [50, 50, 10, 10, 45], [0, 0, 8, 8, 45], [-50, 0, 4, 4, 0]]
    )
    np.testing.assert_allclose(_rotated_share(boxes, (100, 100)), [0.5, 1, 0.25, 0], atol=1e-9)


# What is wrong


def test_files_that_are_wrong(config):
    cfg = config()
    mapper, record = SeriatimMapper(cfg, True), DatasetCatalog.get("shapes")[0]
    with pytest.raises(InputError, match="128×96 px, but its dataset says 96×128"):
        mapper({**record, "width": 96, "height": 128})
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=path.name):
        mapper(record)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        mapper(record)


def test_labels_of_another_size(config, panoptic_entries):
    cfg = config(panoptic_entries["semantic"])
    record = DatasetCatalog.get("semantic")[0]
    Image.new("L", (5, 6)).save(record["sem_seg_file_name"])
    with pytest.raises(InputError, match="5×6 px"):
        SeriatimMapper(cfg, True)(record)


def test_objects_without_keypoints_get_unlabelled_ones():
    annotations = [{"bbox": [0, 0, 1, 1], "bbox_mode": 0, "category_id": 0}]
    objects = read_objects(annotations, masks=True, keypoints=3)
    assert (objects.keypoints == 0).all()
    assert objects.masks == [None]


def test_other_augmentations_can_be_given(config):
    cfg = config()
    cfg.SERIATIM.AUG.ENABLED = True
    mapper = SeriatimMapper(cfg, is_train=True, augmentations=build_augmentations(cfg, False))
    result = mapper(DatasetCatalog.get("shapes")[0])
    assert min(result["image"].shape[1:]) == cfg.INPUT.MIN_SIZE_TEST
    assert len(result["instances"])
