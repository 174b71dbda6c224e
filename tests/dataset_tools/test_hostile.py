"""Labels made to do harm: each reader says what is wrong with them, and does nothing of it.

`tests.fuzz` damages at random; these are the attacks that have names.
"""

import gzip
import zipfile

import pytest

from dataset_tools.coco import load_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from dataset_tools.formats.reading import leads_out
from tests.dataset_tools.formats import test_recognise
from tests.dataset_tools.formats.packed import random_pixels, write_idx
from tests.dataset_tools.makers import picture, text
from tests.fuzz.damage import png_header

LAUGHS = (
    '<!DOCTYPE a [<!ENTITY l0 "ha">'
    + "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    + "]>"
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY l9 SYSTEM "file:///etc/hostname">]>'
VOC = test_recognise.VOC.replace("<object>", "<object><name>&l9;</name>")
CVAT = test_recognise.CVAT.replace('name="a.jpg"', 'name="&l9;"')
TRACKS = CVAT.replace("<image", "<track")
DEEP = "[" * 10_000 + "]" * 10_000
JSON = {
    "coco": ("a.json", '{"images": [], "annotations": %s}'),
    "labelme": ("a.json", '{"shapes": %s, "imagePath": "a.jpg"}'),
    "createml": ("a.json", '[{"image": "a.jpg", "annotations": %s}]'),
    "label-studio": ("a.json", '[{"data": {}, "annotations": %s}]'),
    "supervisely": ("ds/ann/a.jpg.json", '{"size": {}, "objects": %s, "tags": []}'),
    "datumaro": ("a.json", '{"categories": {}, "items": %s}'),
    "labelbox": ("a.ndjson", '{"data_row": {"id": "x"}, "projects": %s}'),
    "sagemaker": ("a.manifest", '{"source-ref": "s3://b/a.jpg", "x": %s}'),
    "via": ("a.json", '{"_via_settings": {}, "_via_img_metadata": %s}'),
    "vott": ("1-asset.json", '{"asset": {"name": "a.jpg"}, "regions": %s}'),
    "bdd100k": ("a.json", '[{"name": "a.jpg", "labels": %s, "box2d": 1, "category": 1}]'),
    "cityscapes": ("a_gtFine_polygons.json", '{"imgHeight": 1, "imgWidth": 1, "objects": %s}'),
    "crowdhuman": ("a.odgt", '{"ID": "a", "gtboxes": %s}'),
    "hf-folder": ("metadata.jsonl", '{"file_name": "a.jpg", "x": %s}'),
}


@pytest.mark.parametrize("entities", [LAUGHS, EXTERNAL], ids=["laughs", "external"])
@pytest.mark.parametrize(
    ("name", "content"), [("voc", VOC), ("cvat", CVAT), ("cvat-video", TRACKS)]
)
def test_entities_of_xml_are_refused(tmp_path, name, content, entities):
    text(tmp_path / "in/a.xml", entities + content)
    picture(tmp_path / "in/a.jpg")
    with pytest.raises(InputError, match=r"a\.xml.*(DOCTYPE|DTD|entit)"):
        convert_dataset(name, tmp_path / "in", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", JSON)
def test_json_of_ten_thousand_levels_is_refused(tmp_path, name):
    file, content = JSON[name]
    for level, deep in enumerate((content % DEEP, DEEP)):
        picture(tmp_path / f"{level}/a.jpg")
        label = text(tmp_path / f"{level}" / file, deep)
        path = (
            label if level and name not in ("supervisely", "hf-folder") else tmp_path / f"{level}"
        )
        with pytest.raises(InputError):
            convert_dataset(name, path, tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "name", ["../../secret.jpg", "/etc/hostname", "a/../../secret.jpg", "C:\\x"]
)
@pytest.mark.parametrize("format_", ["coco", "labelme", "csv", "createml", "voc", "cvat"])
def test_names_that_lead_out_of_the_folder_find_nothing_there(tmp_path, format_, name):
    picture(tmp_path / "secret.jpg")
    written = name.replace("\\", "\\\\") if format_ in ("coco", "labelme", "createml") else name
    file, content = {
        "coco": (
            "a.json",
            test_recognise.COCO.replace('"id": 1', '"id": 1, "width": 9, "height": 9'),
        ),
        "labelme": (
            "a.json",
            test_recognise.LABELME.replace("{", '{"imageWidth": 9, "imageHeight": 9, ', 1),
        ),
        "csv": ("a.csv", test_recognise.CSV),
        "createml": ("a.json", test_recognise.CREATEML),
        "voc": ("a.xml", VOC.replace("&l9;", "x").replace("<size/>", "")),
        "cvat": (
            "a.xml",
            test_recognise.CVAT.replace('name="a.jpg"', 'name="a.jpg" width="9" height="9"'),
        ),
    }[format_]
    text(tmp_path / "deep/in" / file, content.replace("a.jpg", written))
    try:
        conversion = convert_dataset(format_, tmp_path / "deep/in", tmp_path / "deep/out")
    except InputError:
        return
    for summary in conversion.files.values():
        assert not any(leads_out(image.file_name) for image in load_coco(summary.path).images)


def test_members_of_an_archive_that_lead_out_are_not_unpacked(tmp_path):
    path = tmp_path / "in/train.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../slipped.npy", b"x")
        file.writestr("/tmp/slipped.npy", b"x")
    with pytest.raises(InputError):
        convert_dataset("npz", tmp_path / "in", tmp_path / "out")
    assert not list(tmp_path.rglob("slipped*"))


def test_bombs_are_not_unpacked(tmp_path):
    # A picture of few bytes that says it has 3.6 billion pixels.
    path = tmp_path / "in/images/a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png_header(60_000, 60_000))
    text(tmp_path / "in/labels/a.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=r"a\.png.*too large"):
        convert_dataset("yolo", tmp_path / "in", tmp_path / "out")
    # A packed file that holds more than it says.
    write_idx(tmp_path / "idx", random_pixels(3, 6, 5), [0, 1, 2], packed=True)
    (images,) = (tmp_path / "idx").glob("*images*")
    images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes()) + bytes(10**6)))
    with pytest.raises(InputError):
        convert_dataset("idx", tmp_path / "idx", tmp_path / "out")
