import json

from seriatim.gates.data import DataGate
from seriatim.gates.verdict import Status

from .pipelines import ask, assert_caught, metadata_changed, pipeline


def edit(folder, split, change):
    path = folder / split / "shapes.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def shift_annotations(content, by=1):
    ids = [image["id"] for image in content["images"]]
    moved = {one: ids[(i + by) % len(ids)] for i, one in enumerate(ids)}
    for annotation in content["annotations"]:
        annotation["image_id"] = moved[annotation["image_id"]]


def large(tmp_path):
    """40 training images: enough to ask whether boxes belong to their images."""
    from seriatim.testing.shapes import make_shapes

    make_shapes(tmp_path / "train", 40, 1, size=(64, 64))
    return tmp_path


def test_healthy(tmp_path):
    verdict = ask(DataGate(), pipeline(large(tmp_path), "retinanet"), tmp_path)
    assert verdict.status is not Status.FAIL  # drawn crowds have rough masks: a warning
    measured = verdict.numbers[f"{tmp_path.name}_train: agreement"]
    assert measured["rank"] > 0.85


def test_labels_of_the_next_image(tmp_path):
    context = pipeline(large(tmp_path), "retinanet")
    edit(tmp_path, "train", shift_annotations)
    context = pipeline(tmp_path, "retinanet")
    assert_caught(ask(DataGate(), context, tmp_path), "other images")


def test_classes_in_another_order_in_the_test_set(tmp_path):
    context = pipeline(tmp_path, "retinanet")
    with metadata_changed(
        context.cfg.DATASETS.TEST[0], thing_classes=["square", "triangle", "circle"]
    ):
        assert_caught(ask(DataGate(), context, tmp_path), "number")


def test_a_class_that_is_tested_and_never_trained_is_a_warning(tmp_path):
    pipeline(tmp_path, "retinanet")

    def drop(content):
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 2]

    edit(tmp_path, "train", drop)
    verdict = ask(DataGate(), pipeline(tmp_path, "retinanet"), tmp_path)
    assert verdict.status is Status.WARN
    assert "square" in verdict.findings[0].measured


def test_a_test_image_that_is_trained(tmp_path):
    pipeline(tmp_path, "retinanet")
    for name in ("train", "val"):
        edit(tmp_path, name, lambda content: None)
    source, target = (next((tmp_path / split / "images").iterdir()) for split in ("train", "val"))
    target.write_bytes(source.read_bytes())
    verdict = ask(DataGate(), pipeline(tmp_path, "retinanet"), tmp_path)
    assert any("split" in finding.measured for finding in verdict.findings), verdict.summary


def test_a_missing_image(tmp_path):
    context = pipeline(tmp_path, "retinanet")
    next((tmp_path / "val" / "images").iterdir()).unlink()
    verdict = ask(DataGate(), context, tmp_path)
    assert verdict.status is Status.FAIL
    assert "missing" in verdict.findings[0].measured
