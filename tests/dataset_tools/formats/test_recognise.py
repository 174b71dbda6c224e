import json

import numpy as np
import pytest

from dataset_tools.errors import InputError
from dataset_tools.formats import NAMES, Glimpse, all_formats, get_format, recognise
from dataset_tools.formats.base import CARRIED
from tests.dataset_tools.makers import mask_picture, picture, text

VOC = "<annotation><filename>a.jpg</filename><size/><object><bndbox/></object></annotation>"
COCO = json.dumps(
    {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}
)
YOLO = "0 0.5 0.5 0.1 0.1\n"
LABEL_STUDIO = json.dumps(
    [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": [], "was_cancelled": False}]}]
)
LABEL_STUDIO_MIN = json.dumps([{"image": "a.jpg", "label": [{"x": 1, "rectanglelabels": ["cat"]}]}])
CREATEML = json.dumps(
    [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1, "y": 2}}]}]
)
SUPERVISELY = json.dumps({"size": {"height": 1, "width": 1}, "objects": [], "tags": []})
DATUMARO = json.dumps(
    {
        "info": {},
        "categories": {"label": {"labels": [{"name": "a", "parent": ""}]}},
        "items": [{"id": "a", "annotations": [], "image": {"path": "a.jpg"}}],
    }
)
LABELBOX = json.dumps({"data_row": {"id": "x"}, "media_attributes": {}, "projects": {}})
SAGEMAKER = json.dumps({"source-ref": "s3://b/a.jpg", "x": 1, "x-metadata": {}}) + "\n"
CSV = "image,x1,y1,x2,y2,label\na.jpg,1,2,3,4,cat\n"
KITTI = "Car 0.0 0 -1.57 2.0 3.5 12.2 9.0 1.5 1.6 3.9 -2.1 1.7 25.0 -1.65\n"
BDD = (
    '[{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 2,'
    ' "y2": 2}}]}]'
)
CITYSCAPES = '{"imgHeight": 10, "imgWidth": 20, "objects": [{"label": "car", "polygon": []}]}'
OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
    "IsDepiction,IsInside\na,xclick,/m/x,1,0.1,0.2,0.1,0.2,0,0,0,0,0\n"
)

RGBA = "RGBA"  # of a picture: its mode
LABELME = '{"version": "5.4.1", "flags": {}, "shapes": [], "imagePath": "a.jpg"}'

CVAT = '<annotations><version>1.1</version><meta/><image id="0" name="a.jpg"/></annotations>'

VIA = (
    '{"a.jpg1": {"filename": "a.jpg", "size": 1, "file_attributes": {}, "regions": '
    '[{"shape_attributes": {"name": "point", "cx": 1, "cy": 1}, "region_attributes": {}}]}}'
)
VOTT = (
    '{"asset": {"id": "1", "name": "a.jpg", "size": {"width": 1, "height": 1}}, "regions": [], '
    '"version": "2.2.0"}'
)


def files(folder, contents):
    for name, content in contents.items():
        if name.endswith((".jpg", ".png")):
            picture(folder / name, mode=content or "RGB")
        else:
            text(folder / name, content)
    return folder


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("voc", {"Annotations/a.xml": VOC, "JPEGImages/a.jpg": ""}),
        ("voc", {"a.xml": b"\xef\xbb\xbf" + VOC.encode(), "a.jpg": ""}),
        ("voc", {"a.xml": VOC.encode("utf-16")}),
        ("voc", {"SegmentationObject/a.png": "", "SegmentationClass/a.png": ""}),
        ("voc", {"a.xml": VOC.replace("<", "<v:").replace("<v:/", "</v:")}),
        ("coco", {"annotations/instances_train2017.json": COCO, "train2017/a.jpg": ""}),
        ("coco", {"labels.json": b"\xef\xbb\xbf" + COCO.encode(), "package.json": '{"name": "x"}'}),
        ("yolo", {"images/a.jpg": "", "labels/a.txt": YOLO}),
        ("yolo", {"a.jpg": "", "a.txt": YOLO, "classes.txt": "cat", "b.txt": "", "b.jpg": ""}),
        ("yolo", {"data.yaml": "train: images\nnames: [a]"}),
        ("labelme", {"a.json": LABELME, "a.jpg": ""}),
        ("labelme", {"x/a.json": LABELME.encode("utf-16"), "package.json": '{"name": "x"}'}),
        ("labelme", {"a.json": '{"flags": {}, "imageData": "' + "A" * 100_000 + '"}'}),
        ("darknet", {"obj.data": "train = t.txt\nnames = n", "d/a.jpg": "", "d/a.txt": YOLO}),
        ("cvat-video", {"annotations.xml": CVAT.replace("<image", "<track")}),
        ("via", {"via.json": VIA, "a.jpg": ""}),
        ("via", {"via.json": f'{{"_via_settings": {{}}, "_via_img_metadata": {VIA}}}'}),
        ("via", {"via.json": '{"project": {"data_format_version": "3.1.1", "vid_list": []}}'}),
        ("via", {"via.csv": "filename,file_size,region_shape_attributes,region_attributes\n"}),
        ("vott", {"1-asset.json": VOTT, "a.jpg": ""}),
        ("vott", {"x.json": f'{{"securityToken": "", "assets": {{"1": {VOTT}}}}}', "a.jpg": ""}),
        ("cvat", {"annotations.xml": CVAT, "images/a.jpg": ""}),
        ("createml", {"train/_annotations.createml.json": CREATEML, "train/a.jpg": ""}),
        ("csv", {"labels.csv": CSV, "a.jpg": ""}),
        ("csv", {"labels.csv": CSV.encode("utf-16")}),
        ("csv", {"labels.csv": "a.jpg,1,2,3,4,cat\nb.jpg,,,,,\n"}),
        ("csv", {"train.csv": CSV.replace(",", ";"), "notes.csv": "day,rain\n1,2\n"}),
        ("createml", {"labels.json": CREATEML, "a.jpg": ""}),
        ("label-studio", {"export.json": LABEL_STUDIO, "a.jpg": ""}),
        ("supervisely", {"meta.json": '{"classes": [], "tags": []}', "ds/img/a.jpg": ""}),
        ("supervisely", {"ds/ann/a.jpg.json": SUPERVISELY, "ds/img/a.jpg": ""}),
        ("datumaro", {"annotations/train.json": DATUMARO, "images/train/a.jpg": ""}),
        ("labelbox", {"export.ndjson": LABELBOX, "a.jpg": ""}),
        ("labelbox", {"export.json": f"[{LABELBOX}]"}),
        ("sagemaker", {"output.manifest": SAGEMAKER, "a.jpg": ""}),
        ("label-studio", {"min.json": LABEL_STUDIO_MIN.encode("utf-16")}),
        ("masks", {"x/images/x.png": "", "x/masks/1.png": ""}),
        ("masks", {"images/x.jpg": "", "masks/x/1.png": ""}),
        ("masks", {"images/y/x.jpg": "", "masks/y/x.png": ""}),
        ("masks", {"train/images/x.jpg": "", "train/class_masks/cat/x.png": ""}),
        ("imagefolder", {"cat/1.jpg": "", "dog/a/1.png": "", "README.md": "Cats."}),
        ("class-csv", {"labels.csv": "image,label\na.jpg,cat\n", "a.jpg": ""}),
        ("class-csv", {"train/_classes.csv": "filename,cat,dog\na.jpg,1,0\n", "train/a.jpg": ""}),
        ("idx", {"train-images-idx3-ubyte": b"\0\0\x08\3" + b"\0\0\0\1" * 3 + b"\0"}),
        ("cifar", {"test_batch": b"\x80\x02}q\x01U\x0bbatch_labelq\x02U\x01xs."}),
        ("svhn", {"train_32x32.mat": b"MATLAB 5.0 MAT-file, Platform: GLNXA64"}),
        ("usps", {"usps.t": "5 1:-1 2:-0.5 \n"}),
        ("digitfive", {"mnist_data.mat": b"MATLAB 5.0 MAT", "svhn_train_32x32.mat": b"MATLAB "}),
        ("image-list", {"clipart_train.txt": "clipart/ant/1.jpg 0\n", "clipart/ant/1.jpg": ""}),
        ("hf-folder", {"metadata.csv": "file_name,text\na.jpg,A cat.\n", "a.jpg": ""}),
        ("hf-folder", {"train/metadata.jsonl": '{"file_name": "a.jpg"}\n', "train/a.jpg": ""}),
        ("imagefolder", {"train/cat/1.jpg": "", "val/dog/1.png": ""}),
        ("dota", {"images/a.png": "", "labelTxt/a.txt": "gsd:0.1\n1 1 9 1 9 5 1 5 plane 0\n"}),
        ("dota", {"images/a.png": "", "labelTxt/a.txt": "imagesource:GoogleEarth\n"}),
        ("kitti", {"training/label_2/1.txt": KITTI, "training/image_2/1.png": ""}),
        ("kitti-tracking", {"training/label_02/0.txt": f"0 -1 {KITTI}", "image_02/0/0.png": ""}),
        ("visdrone-vid", {"annotations/v.txt": "1,0,3,2,5,4,1,4,1,2\n", "sequences/v/1.jpg": ""}),
        ("bdd100k-masks", {"bitmasks/train/a.png": RGBA, "images/train/a.jpg": ""}),
        (
            "visdrone",
            {"annotations/1.txt": "3,2,5,4,1,4,1,2\n0,0,9,9,0,0,0,0,", "images/1.jpg": ""},
        ),
        ("mot", {"M/seqinfo.ini": "[Sequence]", "M/gt/gt.txt": "1,1,1,1,4,3,1,1,0.7\n"}),
        ("widerface", {"x_bbx_gt.txt": "0--P/a.jpg\n1\n3 2 5 4 2 0 1 0 1 0 \n", "a.jpg": ""}),
        ("crowdhuman", {"a.odgt": '{"ID": "1,a", "gtboxes": []}\n', "Images/1,a.jpg": ""}),
        ("bdd100k", {"det_train.json": BDD, "a.jpg": ""}),
        (
            "cityscapes",
            {"gtFine/val/a/a_gtFine_polygons.json": CITYSCAPES, "a_leftImg8bit.png": ""},
        ),
        (
            "openimages",
            {"val-imagelabels.csv": "ImageID,Source,LabelName,Confidence\n", "val/a.jpg": ""},
        ),
        ("openimages", {"x-bbox.csv": OPEN_IMAGES, "c.csv": "/m/x,Cat\n", "train/a.jpg": ""}),
    ],
)
def test_each_format_is_recognised_from_content_alone(tmp_path, name, contents):
    found = recognise(files(tmp_path / "labels", contents))
    assert [format_.name for format_, _ in found] == [name]
    assert found[0][1].text


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"a.jpg": "", "b.png": ""},
        {"train/a.jpg": "", "labels/b.png": ""},
        {"day 1/a.jpg": "", "day 2/b.png": "", "what.json": "{}"},
        {"a.xml": "<html><body/></html>", "a.jpg": ""},
        {"a.json": '{"images": "all"}', "b.json": "[1, 2]", "c.json": "{"},
        {"a.txt": "A cat.", "a.jpg": ""},
        {"a.csv": "day,rain\nMonday,2\n"},
        {"config.yaml": "names: [a]\n"},
        {"a.csv": "image,weight\na.jpg,0.5\n", "a.jpg": ""},
        {"train": "cat", "test": "dog", "x.mat": b"MATLAB 5.0 MAT-file", "x.parquet": b"PAR1"},
    ],
)
def test_other_files_are_of_no_format(tmp_path, contents):
    (tmp_path / "labels").mkdir()
    assert recognise(files(tmp_path / "labels", contents)) == []


def test_certain_evidence_outweighs_the_rest_and_two_certain_ones_are_both_named(tmp_path):
    contents = {"a.xml": VOC, "a.jpg": "", "boxes.csv": "a.jpg,1,2,3,4,cat"}
    assert [f.name for f, _ in recognise(files(tmp_path, contents))] == ["voc"]
    text(tmp_path / "labels.json", COCO)
    assert [f.name for f, _ in recognise(tmp_path)] == ["coco", "voc"]


def test_a_look_at_many_files_ends_after_some_the_nearest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(Glimpse, "MOST_FILES", 200)
    for name in range(20):
        (tmp_path / f"labels/{name:03}").mkdir(parents=True)
        for file in range(30):
            (tmp_path / f"labels/{name:03}/{file}.txt").touch()
    mask_picture(tmp_path / "images/a.png", np.ones((2, 2)))
    text(tmp_path / "images/a.txt", YOLO)
    assert 200 <= len(Glimpse(tmp_path).files) < 260
    assert [format_.name for format_, _ in recognise(tmp_path)] == ["yolo"]


def test_many_folders_side_by_side_do_not_hide_the_labels(tmp_path):
    for number in range(600):
        (tmp_path / f"JPEGImages/{number:03}").mkdir(parents=True)
    text(tmp_path / "labels/deep/er/a.xml", VOC)
    assert [format_.name for format_, _ in recognise(tmp_path)] == ["voc"]


def test_every_format_says_what_it_is():
    assert [format_.name for format_ in all_formats()] == list(NAMES)
    for format_ in all_formats():
        assert format_.title and format_.layout and format_.conventions
        assert set(format_.carries) <= set(CARRIED)
        assert len({option.name for option in format_.options}) == len(format_.options)


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(InputError, match="Did you mean 'yolo'"):
        get_format("yolov8")
    with pytest.raises(InputError, match="There are: auto, coco, voc"):
        get_format("xyz")
