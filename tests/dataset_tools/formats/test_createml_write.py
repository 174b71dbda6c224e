import json

from dataset_tools.coco import Annotation, Image, load_coco, write_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.export import export_dataset
from tests.dataset_tools.makers import picture, text
from tests.dataset_tools.round_trips import assert_close, records


def entry(*annotations, image="a.jpg", **more):
    return {"image": image, "annotations": list(annotations), **more}


def box(x=5, y=6, width=6, height=3, label="cat", **more):
    return {
        "label": label,
        "coordinates": {"x": x, "y": y, "width": width, "height": height},
        **more,
    }


def dataset(folder, *entries, name="_annotations.createml.json"):
    text(folder / name, json.dumps(entries, ensure_ascii=False))
    picture(folder / "a.jpg")
    return folder


def test_what_cannot_be_written_is_told(tmp_path):
    annotations = [
        Annotation("cat", None, [[1, 2, 5, 2, 5, 8]]),
        Annotation("cat", (0, 0, 9, 9), keypoints=[1, 2, 2]),
    ]
    found = Image("a.jpg", 20, 10, annotations, attributes={"flags": {}})
    write_coco(tmp_path / "all.json", [found], None, {})
    export = export_dataset("createml", {None: tmp_path / "all.json"}, tmp_path / "there")
    assert len(export.notes.dropped) == 3 and len(export.notes.suspicious) == 1


def test_format_to_coco_and_back_and_again(tmp_path):
    entries = [entry(box(0.1, 0.7, 0.3, 1 / 3), {"label": "day"}, box(score=1, label="ö"))]
    dataset(tmp_path / "in/train", *entries, name="x.json")
    picture(tmp_path / "in/train/a.jpg")
    first = convert_dataset("createml", tmp_path / "in", tmp_path / "first").files["train"].path
    assert not export_dataset("createml", {"train": first}, tmp_path / "there").notes
    second = convert_dataset("createml", tmp_path / "there", tmp_path / "second")
    before, after = records(load_coco(first)), records(load_coco(second.files["train"].path))
    assert_close(after, before, 1e-6)
