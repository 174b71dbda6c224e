"""What Roboflow exports is read by the readers of the formats it exports, and recognised by
them."""

import json
from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

# Roboflow keeps the old suffix in the name and adds a hash.
NAMES = {
    "train": "a_jpg.rf.0123456789abcdef0123456789abcdef.jpg",
    "valid": "b c_png.rf.1123456789abcdef0123456789abcdef.jpg",
    "test": "d.1_jpg.rf.2123456789abcdef0123456789abcdef.jpg",
}
SPLITS = {"train": "train", "valid": "val", "test": "test"}
BOX = [5, 3, 10, 4]  # XYWH in images of 20 × 10 px


def readmes(folder):
    text(folder / "README.roboflow.txt", "\nanimals - v1\n\nThis dataset was exported by\n")
    text(folder / "README.dataset.txt", "# animals > 1\nhttps://universe.roboflow.com/w/p\n")
    return folder


def coco(folder, others=("cat", "dog")):
    for split, name in NAMES.items():
        picture(folder / split / name)
        categories = [{"id": 0, "name": "cat", "supercategory": "none"}]
        categories += [
            {"id": number, "name": other, "supercategory": "cat"}
            for number, other in enumerate(others, start=1)
        ]
        image = {"id": 0, "license": 1, "file_name": name, "width": 20, "height": 10}
        annotation = {"id": 0, "image_id": 0, "category_id": 1, "bbox": BOX, "area": 40}
        content = {
            "info": {"year": "2024", "description": "Exported from roboflow.com"},
            "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
            "categories": categories,
            "images": [image | {"date_captured": "2024", "extra": {"name": "a b.jpg"}}],
            "annotations": [annotation | {"segmentation": [], "iscrowd": 0}],
        }
        text(folder / split / "_annotations.coco.json", json.dumps(content))
    return readmes(folder)


V8 = """train: ../train/images
val: ../valid/images
test: ../test/images

nc: 2
names: ['cat', 'dog']

roboflow:
  workspace: w
  project: p
  version: 1
  license: CC BY 4.0
  url: https://universe.roboflow.com/w/p/dataset/1"""
V5 = V8.replace("../train", "animals-1/train").replace("../valid", "/content/animals-1/valid")


def yolo(folder, data=V8):
    for split, name in NAMES.items():
        picture(folder / split / "images" / name)
        file = folder / split / "labels" / f"{Path(name).stem}.txt"
        polygon = "0 0.25 0.3 0.75 0.3 0.75 0.7 0.25 0.7 0.25 0.3"
        text(file, polygon if split == "test" else "0 0.5 0.5 0.5 0.4")
    text(folder / "data.yaml", data)
    return readmes(folder)


def voc(folder):
    for split, name in NAMES.items():
        picture(folder / split / name)
        content = f"""<annotation>
\t<folder></folder>
\t<filename>{name}</filename>
\t<path>{name}</path>
\t<source>
\t\t<database>roboflow.com</database>
\t</source>
\t<size>
\t\t<width>20</width>
\t\t<height>10</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>cat</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<occluded>0</occluded>
\t\t<bndbox>
\t\t\t<xmin>5</xmin>
\t\t\t<xmax>15</xmax>
\t\t\t<ymin>3</ymin>
\t\t\t<ymax>7</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""
        text(folder / split / f"{Path(name).stem}.xml", content)
    return readmes(folder)


def csv(folder):
    for split, name in NAMES.items():
        picture(folder / split / name)
        rows = f"filename,width,height,class,xmin,ymin,xmax,ymax\n{name},20,10,cat,5,3,15,7\n"
        text(folder / split / "_annotations.csv", rows)
    return readmes(folder)


def retinanet(folder):
    for split, name in NAMES.items():
        picture(folder / split / name)
        text(folder / split / "_annotations.csv", f"{name},5,3,15,7,cat\n")
        text(folder / split / "_classes.csv", "cat,0\n")
    return readmes(folder)


def createml(folder):
    for split, name in NAMES.items():
        picture(folder / split / name)
        box = {"x": 10, "y": 5, "width": 10, "height": 4}
        entry = {"image": name, "annotations": [{"label": "cat", "coordinates": box}]}
        text(folder / split / "_annotations.createml.json", json.dumps([entry]))
    return readmes(folder)


def v5(folder):
    return yolo(folder, V5)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("coco", coco),
        ("yolo", yolo),
        ("yolo", v5),
        ("voc", voc),
        ("csv", csv),
        ("csv", retinanet),
        ("createml", createml),
    ],
)
def test_every_layout_gives_its_splits_and_boxes(tmp_path, name, make):
    conversion, splits = converted("auto", make(tmp_path / "in"), tmp_path / "out")
    assert conversion.format.name == name
    assert list(splits) == ["train", "val", "test"]
    for folder, file_name in NAMES.items():
        ((path, image),) = splits[SPLITS[folder]].items()
        assert path.startswith(f"{folder}/") and path.endswith(file_name)
        assert image["size"] == (20, 10)
        ((category, box, _),) = image["objects"]
        assert (category, box) == ("cat", BOX)
        assert (conversion.plan.image_root / path).is_file()
    assert not conversion.notes


def test_the_category_of_the_project_is_left_out_even_if_it_shares_a_name(tmp_path):
    for number, others in enumerate((("cat", "dog"), ("cat",))):
        source = coco(tmp_path / f"in{number}", others)
        conversion, _ = converted("auto", source, tmp_path / "out")
        assert list(conversion.files["train"].per_category) == list(others)


def test_a_category_0_that_is_used_or_stands_alone_stays(tmp_path):
    source = coco(tmp_path / "in", ())
    for file in source.rglob("*.json"):
        text(file, file.read_text().replace('"category_id": 1', '"category_id": 0'))
    conversion, _ = converted("auto", source, tmp_path / "out")
    assert conversion.files["train"].per_category == {"cat": 1}


def test_a_split_that_is_named_but_not_there_is_told(tmp_path):
    import shutil

    source = yolo(tmp_path / "in")
    shutil.rmtree(source / "test")
    conversion, splits = converted("auto", source, tmp_path / "out")
    assert list(splits) == ["train", "val"]
    assert list(conversion.notes.suspicious) == ["split of Roboflow without images"]
    text(source / "data.yaml", V8.partition("roboflow:")[0])
    with pytest.raises(InputError, match=r"test: \.\./test/images gives no images"):
        converted("auto", source, tmp_path / "out")
