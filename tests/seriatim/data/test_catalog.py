"""Datasets by config, compared with what Detectron2's own loaders read from the same files."""

from __future__ import annotations

import json
import pickle
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import DataLoader

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.data.catalog import dataset_facts, register_datasets
from seriatim.data.packed import PackedDataset

PAGES = Path("/proc/self/pagemap")


def register(*entries):
    cfg = get_cfg()
    cfg.SERIATIM.DATASETS = list(entries)
    return register_datasets(cfg)


def complaint(*entries):
    with pytest.raises(InputError) as error:
        register(*entries)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(entry, change):
    """Apply `change` to the parsed JSON of an entry."""
    path = Path(entry["JSON"])
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return entry


@pytest.mark.parametrize("rle", [False, True])
def test_instances_are_those_that_detectron2_loads(entry, rle):
    e = entry(rle=rle)
    assert register(e) == ["shapes"]
    ours = DatasetCatalog.get("shapes")
    theirs = load_coco_json(e["JSON"], e["IMAGES"], "shapes_by_detectron2")
    assert len(ours) == len(theirs) == 8
    for a, b in zip(ours, theirs, strict=True):
        objects, others = a.pop("annotations"), b.pop("annotations")
        assert a == b
        for x, y in zip(objects, others, strict=True):
            for record in (x, y):
                record["bbox"] = BoxMode.convert(record["bbox"], record.pop("bbox_mode"), 0)
            assert x.pop("bbox") == pytest.approx(y.pop("bbox"))
            assert x.pop("keypoints", None) == pytest.approx(y.pop("keypoints", None))
            del x["id"]
            assert x == y
    meta, other = MetadataCatalog.get("shapes"), MetadataCatalog.get("shapes_by_detectron2")
    assert meta.thing_classes == other.thing_classes
    assert meta.thing_dataset_id_to_contiguous_id == other.thing_dataset_id_to_contiguous_id


def test_metadata_and_facts(entry):
    e = entry()
    register(e)
    meta = MetadataCatalog.get("shapes")
    assert (meta.json_file, meta.image_root) == (e["JSON"], e["IMAGES"])
    assert meta.evaluator_type == "coco"
    assert meta.keypoint_names == ["centre", "top", "left_side", "right_side"]
    assert meta.keypoint_flip_map == [("left_side", "right_side")]
    assert [rule[:2] for rule in meta.keypoint_connection_rules] == [
        ("centre", "top"),
        ("centre", "left_side"),
        ("centre", "right_side"),
    ]
    content = json.loads(Path(e["JSON"]).read_text())
    facts = dataset_facts("shapes")
    plain = [a for a in content["annotations"] if not a["iscrowd"]]
    assert (facts.kind, facts.images, facts.empty_images) == ("instances", 8, 1)
    assert (facts.annotations, facts.crowds) == (len(plain), 1)
    assert (facts.polygons, facts.rles, facts.keypoints) == (len(plain), 0, len(plain))
    assert sum(facts.per_category.values()) == len(plain)


def test_every_caller_gets_records_of_its_own(entry):
    register(entry())
    DatasetCatalog.get("shapes")[0]["annotations"].clear()
    assert DatasetCatalog.get("shapes")[0]["annotations"]


def test_categories_with_gaps_and_out_of_order(entry):
    def change(content):
        new = {1: 30, 2: 7, 3: 12}
        for category in content["categories"]:
            category["id"] = new[category["id"]]
        for annotation in content["annotations"]:
            annotation["category_id"] = new[annotation["category_id"]]

    e = edit(entry(), change)
    register(e)
    meta = MetadataCatalog.get("shapes")
    assert meta.thing_classes == ["square", "triangle", "circle"]
    assert meta.thing_dataset_id_to_contiguous_id == {7: 0, 12: 1, 30: 2}
    theirs = load_coco_json(e["JSON"], e["IMAGES"], "gaps_by_detectron2")
    for a, b in zip(DatasetCatalog.get("shapes"), theirs, strict=True):
        ids = [[x["category_id"] for x in r["annotations"]] for r in (a, b)]
        assert ids[0] == ids[1]


def test_boxes_without_area_are_left_out_and_counted(entry, caplog):
    e = edit(entry(), lambda content: content["annotations"][0].update(bbox=[5, 5, 0, 9]))
    before = len(json.loads(Path(e["JSON"]).read_text())["annotations"])
    register(e)
    assert dataset_facts("shapes").left_out == 1
    assert sum(len(r["annotations"]) for r in DatasetCatalog.get("shapes")) == before - 1
    assert "1 boxes without area" in caplog.text


def test_registering_again(entry):
    e = entry()
    register(e)
    register(e)
    other = entry("other")
    assert "already registered" in complaint({**other, "NAME": "shapes"})
    edit(e, lambda content: content["annotations"].clear())
    register(e)
    assert not any(r["annotations"] for r in DatasetCatalog.get("shapes"))
    assert "Choose another NAME" in complaint({**e, "NAME": "coco_2017_train"})
    assert "2 times" in complaint(e, e)


def test_images_are_found_where_the_json_remembers_them(entry):
    e = entry()
    images = e.pop("IMAGES")
    edit(e, lambda content: content["info"].update(image_root="images"))
    register(e)
    record = DatasetCatalog.get("shapes")[0]
    assert Path(record["file_name"]).parent.samefile(images)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"JSON": "nowhere.json"}, "there is no file nowhere.json"),
        ({"IMAGES": "nowhere"}, "there is no folder nowhere"),
        ({"IMAGES": ""}, "has no IMAGES"),
        ({"NAME": ""}, "has no NAME"),
        ({"JSON": ""}, "Give JSON"),
        ({"JASON": "x"}, "Did you mean JSON"),
        ({"KEYPOINT_FLIP_MAP": [["left_side", "tail"]]}, "tail"),
        ({"KEYPOINT_FLIP_MAP": ["left_side"]}, "pairs"),
    ],
)
def test_entries_that_are_wrong(entry, change, words):
    assert words in complaint({**entry(), **change})


def test_entries_that_are_no_mapping():
    assert "mapping" in complaint("shapes")


def test_variables_and_home_in_paths(entry, tmp_path, monkeypatch):
    monkeypatch.setenv("DRAWN", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    entry()
    register(
        {"NAME": "a", "JSON": "$DRAWN/shapes/shapes.json", "IMAGES": "~/shapes/images"},
    )
    assert len(DatasetCatalog.get("a")) == 8


def test_given_flip_map(entry):
    register({**entry(), "KEYPOINT_FLIP_MAP": [["centre", "top"]]})
    assert MetadataCatalog.get("shapes").keypoint_flip_map == [("centre", "top")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["images"].clear() or c["annotations"].clear(), "no images"),
        (lambda c: c["categories"].clear() or c["annotations"].clear(), "no categories"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "gone.png"),
        (lambda c: c["images"][0].update(file_name="gone/0.png"), "1 of 8 files are missing"),
        (lambda c: c["annotations"][0].update(bbox=[float("nan"), 0, 1, 1]), "not finite"),
        (lambda c: c["annotations"][0].update(category_id=99), "category_id"),
        (lambda c: c["annotations"][0].update(keypoints=[1, 2, 2]), "keypoints"),
        (lambda c: c["categories"][0].update(skeleton=[[1, 9]]), "skeleton"),
    ],
)
def test_files_that_are_wrong(entry, change, words):
    assert words in complaint(edit(entry(), change))


def test_broken_json(entry):
    e = entry()
    path = Path(e["JSON"])
    path.write_text(path.read_text()[:200])
    assert str(path) in complaint(e)


def rotate(content):
    for i, annotation in enumerate(content["annotations"]):
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x + w / 2, y + h / 2, w, h, 10.0 * i]


def test_rotated_boxes(entry):
    e = edit(entry(), rotate)
    register(e)
    assert MetadataCatalog.get("shapes").evaluator_type == "rotated_coco"
    assert dataset_facts("shapes").kind == "rotated"
    content = json.loads(Path(e["JSON"]).read_text())
    boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
    found = [a for r in DatasetCatalog.get("shapes") for a in r["annotations"]]
    assert {a["id"]: a["bbox"] for a in found} == boxes
    assert {a["bbox_mode"] for a in found} == {BoxMode.XYWHA_ABS}
    edit(e, lambda content: content["annotations"][3].update(bbox=[1, 2, 3, 4]))
    assert "annotations[3]" in complaint(e)


def add_rbox(content):
    for i, annotation in enumerate(content["annotations"]):
        x, y, w, h = annotation["bbox"]
        if i:  # the first one has an upright box only
            annotation["attributes"] = {"rbox": [x + w / 2, y + h / 2, w / 2, h / 2, 10.0 * i]}


def test_rotated_boxes_beside_upright_ones(entry):
    e = edit(entry(), add_rbox)
    register(e, {**e, "NAME": "turned", "ROTATED": True})
    assert dataset_facts("shapes").kind == "instances"
    facts = dataset_facts("turned")
    assert (facts.kind, facts.annotations) == ("rotated", dataset_facts("shapes").annotations)
    assert MetadataCatalog.get("turned").evaluator_type == "rotated_coco"
    content = json.loads(Path(e["JSON"]).read_text())["annotations"]
    x, y, w, h = content[0]["bbox"]
    expected = {a["id"]: a["attributes"]["rbox"] for a in content[1:]}
    expected[content[0]["id"]] = [x + w / 2, y + h / 2, w, h, 0]
    found = [a for r in DatasetCatalog.get("turned") for a in r["annotations"]]
    assert {a["id"]: a["bbox"] for a in found} == expected
    assert {a["bbox_mode"] for a in found} == {BoxMode.XYWHA_ABS}


def test_rotated_boxes_are_evaluated_as_such(entry):
    from detectron2.structures import Instances, RotatedBoxes

    from seriatim.evaluation.coco import CocoEvaluator

    e = edit(entry(), add_rbox) | {"ROTATED": True}
    register(e)
    for turned, least, most in ((0, 99.9, 100), (45, 0, 70)):
        evaluator = CocoEvaluator("shapes", distributed=False)
        for record in DatasetCatalog.get("shapes"):
            boxes = torch.tensor([a["bbox"] for a in record["annotations"]]).reshape(-1, 5)
            boxes[:, 4] += turned
            found = Instances((record["height"], record["width"]))
            found.pred_boxes = RotatedBoxes(boxes)
            found.scores = torch.ones(len(boxes))
            found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
            evaluator.process([record], [{"instances": found}])
        assert least <= evaluator.evaluate()["bbox"]["AP"] <= most


def test_what_cannot_be_rotated(entry, panoptic_entries):
    e = entry()
    assert "attributes.rbox" in complaint(e | {"ROTATED": True})
    assert "True or False" in complaint(e | {"ROTATED": "yes"})
    assert "JSON alone" in complaint(panoptic_entries["standard"] | {"ROTATED": True})
    edit(e, lambda content: content["annotations"][2].update(attributes={"rbox": [1, 2, 3]}))
    assert "annotations[2]" in complaint(e | {"ROTATED": True})


def test_panoptic_is_what_detectron2_loads(panoptic_entries):
    e = panoptic_entries["standard"]
    register(e)
    # Detectron2 takes every image for a .jpg.
    for path in Path(e["IMAGES"]).iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
    meta = MetadataCatalog.get("standard")
    theirs = load_coco_panoptic_json(
        e["PANOPTIC_JSON"], e["IMAGES"], e["PANOPTIC_ROOT"], meta.as_dict()
    )
    for a, b in zip(DatasetCatalog.get("standard"), theirs, strict=True):
        assert a["pan_seg_file_name"] == b["pan_seg_file_name"]
        assert a["segments_info"] == b["segments_info"]
        assert a["image_id"] == b["image_id"]
        assert Path(a["file_name"]).stem == Path(b["file_name"]).stem


def test_separated_panoptic(panoptic_entries):
    register(panoptic_entries["separated"])
    meta = MetadataCatalog.get("separated")
    assert meta.evaluator_type == "coco_panoptic_seg"
    assert meta.thing_classes == ["circle", "square", "triangle"]
    assert meta.stuff_classes == ["things", "sky", "ground"]
    assert meta.stuff_dataset_id_to_contiguous_id == {0: 0, 4: 1, 5: 2}
    record = DatasetCatalog.get("separated")[0]
    assert record["annotations"]
    assert set(np.unique(Image.open(record["sem_seg_file_name"]))) <= {0, 1, 2}
    (Path(panoptic_entries["separated"]["SEM_SEG_ROOT"]) / "0003.png").unlink()
    other = {**panoptic_entries["separated"], "NAME": "again"}
    assert "0003.png" in complaint(other)


def test_semantic(panoptic_entries, caplog):
    e = panoptic_entries["semantic"]
    (Path(e["SEM_SEG_ROOT"]) / "0002.png").unlink()
    register(e)
    records = DatasetCatalog.get("semantic")
    assert len(records) == 7
    assert "1 images have no label PNG" in caplog.text
    assert MetadataCatalog.get("semantic").stuff_classes == ["things", "sky", "ground"]
    assert all(Path(r["sem_seg_file_name"]).is_file() for r in records)
    assert "STUFF_CLASSES" in complaint({**e, "NAME": "b", "STUFF_CLASSES": []})


def test_panoptic_that_is_wrong(panoptic_entries, entry):
    e = panoptic_entries["standard"]
    assert "not a panoptic COCO file" in complaint({**e, "PANOPTIC_JSON": entry()["JSON"]})


@pytest.mark.parametrize("rle", [False, True])
def test_records_equal_detectron2s_key_by_key(entry, rle):
    """To the type; our boxes are floats always, for Detectron2 would truncate moved whole ones."""

    def change(content):
        first = content["annotations"][0]
        first["segmentation"] = [[1, 2, 7.5, 2, 7, 9, 1e1, 0], [3, 3, 4, 4], [0, 0, 5, 0, 5, 5.25]]
        content["images"].reverse()

    e = edit(entry(rle=rle), change)
    register(e)
    theirs = load_coco_json(e["JSON"], e["IMAGES"], "shapes_key_by_key")
    ours = DatasetCatalog.get("shapes")
    assert isinstance(ours, PackedDataset)
    for a, b in zip(ours, theirs, strict=True):
        for record in b["annotations"]:
            record["bbox"] = list(map(float, record["bbox"]))
        for record in a["annotations"]:
            del record["id"]  # which Detectron2 leaves out
            assert type(record["bbox_mode"]) is BoxMode
        key = lambda record: sorted(record.items())  # noqa: E731
        assert repr([key(x) for x in a.pop("annotations")]) == repr(
            [key(x) for x in b.pop("annotations")]
        )
        assert repr(key(a)) == repr(key(b))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_share_packed_records(entry, method):
    register(entry())
    records = DatasetCatalog.get("shapes")
    loader = DataLoader(records, batch_size=None, num_workers=1, multiprocessing_context=method)
    assert list(loader) == list(records)
    assert pickle.loads(pickle.dumps(records))[-1] == records[7]


class Measured:
    """Gives the KiB that this process holds of the masks' memory, and holds of it alone.

    By the pages of that memory itself: a forked heap also holds what lies beside it, of which every
    process gets pages of its own as soon as it counts a reference. A number for each page, with bit
    63 if it is here and bit 56 if nobody else has it (the kernel's
    Documentation/admin-guide/mm/pagemap.rst).
    """

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return 2

    def __getitem__(self, index):
        masks = self.records.objects.segmentations
        assert all(masks[i] for i in range(len(masks)))
        block = masks.block
        first = block.data_ptr() // PAGESIZE
        last = (block.data_ptr() + block.nbytes - 1) // PAGESIZE
        with PAGES.open("rb") as file:
            file.seek(8 * first)
            pages = np.frombuffer(file.read(8 * (last - first + 1)), np.uint64)
        here, alone = (pages >> 63) & 1, (pages >> 63) & (pages >> 56) & 1
        return tuple(int(found.sum()) * PAGESIZE // 1024 for found in (here, alone))


@pytest.mark.skipif(not PAGES.exists(), reason="Linux tells")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_do_not_copy_the_arrays(entry, method):
    def enlarge(content):
        polygon = [i % 90 + 0.125 for i in range(150_000)]
        for annotation in content["annotations"]:
            annotation["segmentation"] = [polygon]

    register(edit(entry(), enlarge))
    records = DatasetCatalog.get("shapes")
    size = records.objects.segmentations.block.nbytes // 1024
    assert size > 20_000
    loader = DataLoader(
        Measured(records), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    for held, alone in loader:
        assert held > 0.9 * size
        assert alone < 0.2 * size


def test_unusual_files_are_read_as_well(entry):
    """What the quick way leaves to the careful one gives the same records."""
    register(entry())
    quick = list(DatasetCatalog.get("shapes"))

    def change(content):
        for annotation in content["annotations"]:
            annotation["id"] = float(annotation["id"])

    register(edit(entry(), change))
    careful = list(DatasetCatalog.get("shapes"))
    for record in quick + careful:
        for annotation in record["annotations"]:
            annotation["bbox"] = [round(value, 9) for value in annotation["bbox"]]
    assert quick == careful
