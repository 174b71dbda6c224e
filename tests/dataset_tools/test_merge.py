"""Datasets are joined by the names of categories and files, and nothing is lost."""

import json

import pytest

from dataset_tools.cli import main
from dataset_tools.coco import Annotation, Category, Dataset, Image, load_coco
from dataset_tools.errors import EXIT_BAD_INPUT, InputError
from dataset_tools.merge import merge_datasets
from seriatim.testing.shapes import make_shapes


def dataset(names, categories, **image):
    annotations = [Annotation(category, (1, 1, 5, 5)) for category in categories]
    images = [Image(name, 10, 10, list(annotations), **image) for name in names]
    return Dataset(images, [Category(category) for category in categories])


def content(merged):
    return {i.file_name: [a.category for a in i.annotations] for i in merged.dataset.images}


def test_equal_names_from_different_folders_stay_apart(tmp_path):
    sources = [
        (dataset(["1.png"], "ab"), tmp_path / "x"),
        (dataset(["1.png"], "cb"), tmp_path / "y/z"),
    ]
    merged = merge_datasets(sources)
    assert content(merged) == {"x/1.png": ["a", "b"], "y/z/1.png": ["c", "b"]}
    assert [category.name for category in merged.dataset.categories] == ["a", "b", "c"]
    assert merged.root == tmp_path
    assert merged.clashes == ["1.png"] and merged.same_files == []


def test_the_same_file_becomes_one_image(tmp_path):
    sources = [(dataset(["y/1.png"], "a"), tmp_path), (dataset(["1.png"], "b"), tmp_path / "y")]
    merged = merge_datasets(sources)
    assert content(merged) == {"y/1.png": ["a", "b"]}
    assert merged.same_files == ["y/1.png"]


def test_rename_joins_categories(tmp_path):
    sources = [(dataset(["1"], ["Car"]), tmp_path), (dataset(["2"], ["car", "bus"]), tmp_path)]
    merged = merge_datasets(sources, {"Car": "car"})
    assert content(merged) == {"1": ["car"], "2": ["car", "bus"]}
    assert [category.name for category in merged.dataset.categories] == ["car", "bus"]
    with pytest.raises(InputError, match="'truck' to rename"):
        merge_datasets(sources, {"truck": "car"})


def test_what_contradicts_is_refused(tmp_path):
    one, other = dataset(["1"], "a"), dataset(["1"], "a")
    other.images[0].width = 11
    with pytest.raises(InputError, match="11×10"):
        merge_datasets([(one, tmp_path), (other, tmp_path)])
    other.images[0].width = 10
    one.categories[0].keypoints, other.categories[0].keypoints = ("x",), ("y",)
    with pytest.raises(InputError, match="different keypoints"):
        merge_datasets([(one, tmp_path), (other, tmp_path)])


def test_licences_are_numbered_anew(tmp_path):
    one = dataset(["1"], "a", attributes={"license": 1})
    other = dataset(["2"], "a", attributes={"license": 1})
    third = dataset(["3"], "a", attributes={"license": 7})
    one.licenses = [{"id": 1, "name": "MIT"}]
    other.licenses = [{"id": 1, "name": "CC0"}]
    third.licenses = [{"id": 7, "name": "MIT"}]
    merged = merge_datasets([(part, tmp_path) for part in (one, other, third)]).dataset
    assert merged.licenses == [{"id": 1, "name": "MIT"}, {"id": 2, "name": "CC0"}]
    assert [image.attributes["license"] for image in merged.images] == [1, 2, 1]


def test_the_command(tmp_path, capsys):
    first = make_shapes(tmp_path / "a", num_images=3, seed=1)
    second = make_shapes(tmp_path / "b", num_images=2, seed=2)
    out = tmp_path / "both" / "all.json"
    arguments = ["merge", str(first), str(second), "-o", str(out), "--rename", "square=box"]
    assert main(arguments) == 2
    assert "--images" in capsys.readouterr().err
    roots = [str(tmp_path / name / "images") for name in "ab"]
    assert main([*arguments, "--images", *roots]) == 0
    merged = load_coco(out)
    root = out.parent / merged.info["image_root"]
    assert all((root / image.file_name).is_file() for image in merged.images)
    assert {category.name for category in merged.categories} == {"circle", "box", "triangle"}
    parts = [json.loads(path.read_text())["annotations"] for path in (first, second)]
    joined = json.loads(out.read_text())["annotations"]
    assert len(joined) == sum(map(len, parts))
    assert sorted(a["bbox"] for a in joined) == sorted(a["bbox"] for part in parts for a in part)
    assert main(["check", str(out)]) == 0


def test_a_map_drops_and_orders_and_what_contradicts_is_told(tmp_path, capsys):
    first = make_shapes(tmp_path / "a", num_images=3, seed=1)
    second = make_shapes(tmp_path / "b", num_images=2, seed=2)
    content = json.loads(second.read_text())
    content["categories"][0]["supercategory"] = "other"
    content["categories"].append({"id": 99, "name": "Circle", "supercategory": ""})
    second.write_text(json.dumps(content))
    mapping = tmp_path / "map.yaml"
    mapping.write_text("categories: {square: null}\norder: [triangle]\n")
    out = tmp_path / "all.json"
    roots = [str(tmp_path / name / "images") for name in "ab"]
    arguments = ["merge", str(first), str(second), "-o", str(out), "--images", *roots]
    assert main([*arguments, "--map", str(mapping)]) == 0
    told = capsys.readouterr().out
    assert "conflict (the first is kept): circle: supercategory" in told
    assert "alike: 'circle' and 'Circle'" in told
    merged = json.loads(out.read_text())
    assert [c["name"] for c in merged["categories"]] == ["triangle", "circle", "Circle"]
    parts = [json.loads(path.read_text()) for path in (first, second)]
    square = next(c["id"] for c in parts[0]["categories"] if c["name"] == "square")
    gone = sum(a["category_id"] == square for part in parts for a in part["annotations"])
    assert f"dropped: {gone} annotations" in told
    everything = sum(len(part["annotations"]) for part in parts)
    assert len(merged["annotations"]) == everything - gone


def test_a_file_given_twice_is_refused(tmp_path, capsys):
    coco = make_shapes(tmp_path / "a", num_images=1)
    out = tmp_path / "all.json"
    assert main(["merge", str(coco), str(coco), "-o", str(out)]) == EXIT_BAD_INPUT
    assert "given twice" in capsys.readouterr().err
    assert not out.exists()


def test_an_output_that_is_a_folder_is_refused(tmp_path, capsys):
    coco = make_shapes(tmp_path / "a", num_images=1)
    images = str(coco.parent / "images")
    out = tmp_path / "out"
    out.mkdir()
    assert main(["merge", str(coco), "-o", str(out), "--images", images]) == EXIT_BAD_INPUT
    assert "out is a folder" in " ".join(capsys.readouterr().err.split())
    assert not list(out.iterdir())
