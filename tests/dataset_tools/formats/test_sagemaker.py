import json

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools.errors import InputError
from dataset_tools.rle import decode_mask
from tests.dataset_tools.makers import converted, picture, text

SIZE = [{"width": 20, "height": 10, "depth": 3}]


def detection(*boxes, key="bounding-box", image="s3://bucket/set/a.jpg", **metadata):
    entries = [
        dict(zip(("class_id", "left", "top", "width", "height"), box, strict=True)) for box in boxes
    ]
    said = {"class-map": {"0": "cat", "1": "dog"}, "type": "groundtruth/object-detection"}
    said |= {"human-annotated": "yes", "job-name": "labeling-job/x"} | metadata
    label = {"annotations": entries, "image_size": SIZE}
    return {"source-ref": image, key: label, f"{key}-metadata": said}


def read(tmp_path, *lines, encoding="utf-8", options=None):
    picture(tmp_path / "in/set/a.jpg")
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path = text(tmp_path / "in/output.manifest", content, encoding)
    conversion, splits = converted("sagemaker", path, tmp_path / "out", **(options or {}))
    return conversion, splits["all"]


def test_boxes_by_corner_and_size(tmp_path):
    sure = [{"confidence": 0.5}, {"confidence": 0}]
    line = detection((1, 3, 2, 8, 4), (0, 0, 0, 20, 10), objects=sure)
    conversion, found = read(tmp_path, line)
    assert [(n, b, e["attributes"]) for n, b, e in found["set/a.jpg"]["objects"]] == [
        ("dog", [3, 2, 8, 4], {"score": 0.5}),
        ("cat", [0, 0, 20, 10], {"score": 0}),
    ]
    assert not conversion.notes


def test_labels_of_whole_images(tmp_path):
    one = {
        "source-ref": "s3://bucket/set/a.jpg",
        "species": 0,
        "species-metadata": {
            "class-name": "cat",
            "confidence": 0.9,
            "type": "groundtruth/image-classification",
        },
        "weather": [0, 2],
        "weather-metadata": {
            "class-map": {"0": "sunny", "2": "dry"},
            "confidence-map": {"2": 0.7},
            "type": "groundtruth/image-classification-multilabel",
        },
    }
    _, found = read(tmp_path, one)
    assert [(n, b, e["attributes"]) for n, b, e in found["set/a.jpg"]["objects"]] == [
        ("cat", [0, 0, 20, 10], {"whole_image": True, "score": 0.9}),
        ("sunny", [0, 0, 20, 10], {"whole_image": True}),
        ("dry", [0, 0, 20, 10], {"whole_image": True, "score": 0.7}),
    ]


def segmentation(reference="s3://bucket/out/a_mask.png"):
    colours = {
        "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.1},
        "1": {"class-name": "sky", "hex-color": "#2acf59", "confidence": 0.8},
    }
    return {
        "source-ref": "s3://bucket/set/a.jpg",
        "seg-ref": reference,
        "seg-ref-metadata": {
            "internal-color-map": colours,
            "type": "groundtruth/semantic-segmentation",
        },
    }


@pytest.mark.parametrize("palette", [False, True])
def test_segmentations_that_are_there(tmp_path, palette):
    mask = np.zeros((10, 20), bool)
    mask[:3, 5:] = True
    colours = np.full((10, 20, 3), 255, np.uint8)
    colours[mask] = (0x2A, 0xCF, 0x59)
    colours[9, 9] = (1, 2, 3)
    image = Pillow.fromarray(colours)
    image = image.convert("P", palette=Pillow.Palette.ADAPTIVE) if palette else image
    (tmp_path / "in/out").mkdir(parents=True)
    image.save(tmp_path / "in/out/a_mask.png")
    conversion, found = read(tmp_path, segmentation())
    ((name, box, entry),) = found["set/a.jpg"]["objects"]
    assert (name, box, entry["attributes"]) == ("sky", [5, 0, 15, 3], {"score": 0.8})
    assert (decode_mask(entry["segmentation"]) == mask).all()
    assert list(conversion.notes.dropped) == ["pixels of a colour that no class has"]


def test_segmentations_that_are_not_there_or_of_another_size(tmp_path):
    conversion, found = read(tmp_path, segmentation("s3://bucket/out/b.png"))
    assert found["set/a.jpg"]["objects"] == []
    assert list(conversion.notes.dropped) == ["segmentation PNG that is not there"]
    picture(tmp_path / "in/out/a_mask.png", 5, 5)
    with pytest.raises(InputError, match="is 5×5, but its image is 20×10"):
        read(tmp_path, segmentation())


def test_several_jobs_failures_and_lines_without_a_label(tmp_path):
    first = detection((0, 1, 1, 2, 2), key="first")
    chain = first | detection((1, 3, 3, 4, 4), key="adjusted")
    failed = detection((0, 1, 1, 2, 2), image="s3://b/z.jpg", **{"failure-reason": "x"})
    words = {"source-ref": "s3://b/y.jpg", "t": 1, "t-metadata": {"type": "groundtruth/text-x"}}
    conversion, found = read(tmp_path, chain, failed, words, {"source-ref": "s3://b/x.jpg"})
    assert [name for name, *_ in found["set/a.jpg"]["objects"]] == ["dog"]
    assert {note.kind: note.count for note in conversion.notes.dropped.values()} == {
        "label of an earlier job (see --attribute)": 1,
        "label that failed": 1,
        "label of type text-x": 1,
        "line without a label": 3,
    }
    _, found = read(tmp_path, chain, options={"attribute": "first"})
    assert [name for name, *_ in found["set/a.jpg"]["objects"]] == ["cat"]
    with pytest.raises(InputError, match="no line has a label under 'second'"):
        read(tmp_path, chain, options={"attribute": "second"})


def test_names_in_buckets(tmp_path):
    picture(tmp_path / "in/other/a.jpg", 30)
    picture(tmp_path / "in/set/b c#1.jpg")
    lines = [
        detection(image="s3://bucket/deep/other/a.jpg"),
        detection(image="s3://bucket/set/b c#1.jpg"),
        detection(image="s3://bucket/gone/z.jpg"),
    ]
    conversion, found = read(tmp_path, *lines, encoding="utf-16")
    assert list(found) == ["other/a.jpg", "set/b c#1.jpg", "gone/z.jpg"]
    assert list(conversion.notes.suspicious) == ["image file that is missing (kept)"]


def test_manifests_by_split(tmp_path):
    for split in ("train", "validation"):
        picture(tmp_path / f"in/{split}.jpg")
        line = detection((0, 1, 1, 2, 2), image=f"s3://b/{split}.jpg")
        text(tmp_path / f"in/{split}.manifest", json.dumps(line) + "\n")
    _, splits = converted("auto", tmp_path / "in", tmp_path / "out")
    assert {split: list(found) for split, found in splits.items()} == {
        "train": ["train.jpg"],
        "val": ["validation.jpg"],
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (detection((7, 1, 1, 2, 2)), "the class-map has no name for class 7"),
        (detection((0, "x", 1, 2, 2)), r"manifest:1 bounding-box annotations\[0\]: left is 'x'"),
        (detection(image=3), "source-ref is 3, not a text"),
        (detection() | {"bounding-box": 3}, "is not an object with annotations"),
        (detection() | {"bounding-box": {"annotations": [3]}}, r"annotations\[0\] is 3"),
    ],
)
def test_broken_lines(tmp_path, line, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, line)


def test_a_broken_line_is_named(tmp_path):
    path = text(tmp_path / "in/output.manifest", json.dumps(detection()) + "\n{'a': 1}")
    with pytest.raises(InputError, match=r"output\.manifest:2: not valid JSON"):
        converted("sagemaker", path, tmp_path / "out")
