"""Categories are renamed, joined, dropped and ordered as a map in YAML says."""

import json

import pytest

from dataset_tools.category_map import CategoryMap, alike, read_category_map
from dataset_tools.cli import main
from dataset_tools.coco import Annotation, Category, Dataset, Image
from dataset_tools.errors import InputError
from dataset_tools.remap import remap_datasets
from seriatim.testing.shapes import make_shapes
from tests.dataset_tools.makers import text


def dataset(*categories, **more):
    annotations = [Annotation(name, (i, 0, i + 5, 5)) for i, name in enumerate(categories)]
    return Dataset([Image("1.png", 10, 10, annotations)], [Category(n, **more) for n in categories])


def names(dataset):
    return [a.category for image in dataset.images for a in image.annotations]


def test_all_that_a_map_can_say(tmp_path):
    path = text(
        tmp_path / "map.yaml",
        "categories:\n  Car: car\n  lorry: car\n  x: null\n  1: one\norder: [one, car]\n",
    )
    mapping = read_category_map(path)
    source = dataset("tree", "Car", "x", "lorry", "1", "car")
    found = remap_datasets([source], mapping)
    (result,) = found.datasets
    assert names(result) == ["tree", "car", "car", "one", "car"]
    assert [category.name for category in result.categories] == ["one", "car", "tree"]
    assert found.sources["car"] == {"Car": 1, "lorry": 1, "car": 1}
    assert found.dropped == {"x": 1}
    assert names(source)[1] == "Car"  # not changed
    others = remap_datasets([source], CategoryMap({"Car": "car"}, drop_others=True))
    assert names(others.datasets[0]) == ["car"] and set(others.dropped) >= {"tree", "car"}


def test_all_names_change_at_once():
    found = remap_datasets([dataset("a", "b")], CategoryMap({"a": "b", "b": "a"}))
    assert names(found.datasets[0]) == ["b", "a"]


def test_conflicts_are_shown_or_refused():
    join = CategoryMap({"b": "a", "d": "c"})
    source = dataset("a", "b", "c", "d")
    for category, supercategory in zip(source.categories, "xyzz", strict=True):
        category.supercategory = supercategory
    box = (0, 0, 5, 5)
    source.images[0].annotations += [Annotation("b", box, source="there")]
    found = remap_datasets([source], join)
    assert found.conflicts == ["a: supercategory 'x', elsewhere 'y'"]
    assert found.doubles == ["there"]
    for category, keypoint in zip(source.categories, "stuv", strict=True):
        category.keypoints = (keypoint,)
    with pytest.raises(InputError, match=r"'a' \(s; t\), 'c' \(u; v\)"):
        remap_datasets([source], join)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "no map of categories"),
        ("categories: [a]", "no map of categories"),
        ("categories:\n  a: b\n  a: c\n", ":3: 'a' is there twice"),
        ("categories: {no: b}", "False is no name"),
        ("categories: {a: [b]}", r"\['b'\] is no name"),
        ("categorys: {a: b}", "did you mean 'categories'"),
        ("others: remove", "keep or drop, not 'remove'"),
        ("order: a", "is a list"),
        ("order: [a, a]", "twice"),
        ("a: [", ":1: no YAML|:2: no YAML"),
        ("a: !!python/object:os.system {}", "no YAML"),
        ("categories: {a: b}\norder: [c]", "order names 'c'"),
        ("categories: {cat: b}", "no category 'cat'"),
        ("categories: {a: ~}", "drops every"),
    ],
)
def test_maps_that_make_no_sense(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        remap_datasets([dataset("a")], read_category_map(text(tmp_path / "m.yaml", content)))


def test_names_that_are_alike():
    assert alike(["Car", "bus", "car", "Traffic light", "traffic-light"]) == [
        ("Car", "car"),
        ("Traffic light", "traffic-light"),
    ]


def test_the_command(tmp_path, capsys):
    files = [make_shapes(tmp_path / name, num_images=4, seed=i) for i, name in enumerate("ab")]
    files[1] = files[1].rename(tmp_path / "b/val.json")
    mapping = text(
        tmp_path / "m.yaml",
        "categories: {square: box, circle: box, triangle: ~}\norder: [box]\n",
    )
    arguments = ["remap", *map(str, files), "--map", str(mapping), "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "square    box" in told and "triangle  (dropped)" in told
    for file in files:
        before = json.loads(file.read_text())
        after = json.loads((tmp_path / "out" / file.name).read_text())
        assert [(c["id"], c["name"]) for c in after["categories"]] == [(1, "box")]
        triangle = next(c["id"] for c in before["categories"] if c["name"] == "triangle")
        kept = [a["id"] for a in before["annotations"] if a["category_id"] != triangle]
        assert [a["id"] for a in after["annotations"]] == kept
        assert after["info"]["steps"][0]["categories"]["triangle"] is None
    assert main(["remap", str(files[0]), "--map", str(mapping), "-o", str(files[0])]) == 2
