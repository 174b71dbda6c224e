import gzip
import io

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from dataset_tools.coco import load_coco
from dataset_tools.crc32c import masked_crc32c
from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from dataset_tools.protobuf import read_example
from dataset_tools.rle import decode_mask
from tests.dataset_tools.datasets import picture_bytes
from tests.dataset_tools.makers import converted, text

JPEG = picture_bytes(20, 10, ".jpg")


def example_class(packed=True):
    """tf.train.Example as its .proto has it, made by Google's own library."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name=f"example_{packed}.proto", package=f"p{packed}", syntax="proto3"
    )

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, start=1):
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            entry = made.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".p{packed}.{kind}"
            else:
                entry.type = kind
            if kind in (kinds.TYPE_FLOAT, kinds.TYPE_INT64):
                entry.options.packed = packed
        return made

    message("BytesList", ("value", kinds.TYPE_BYTES, True))
    message("FloatList", ("value", kinds.TYPE_FLOAT, True))
    message("Int64List", ("value", kinds.TYPE_INT64, True))
    lists = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    message("Feature", *((name, kind, False) for name, kind in lists))
    message("Entry", ("key", kinds.TYPE_STRING, False), ("value", "Feature", False))
    message("Features", ("feature", "Entry", True))
    message("Example", ("features", "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"p{packed}.Example"))


EXAMPLES = {packed: example_class(packed) for packed in (True, False)}


def example(features, packed=True):
    made = EXAMPLES[packed]()
    for name, values in features.items():
        entry = made.features.feature.add(key=name)
        for value in values if isinstance(values, list) else [values]:
            value = value.encode() if isinstance(value, str) else value
            kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(value)]
            getattr(entry.value, kind).value.append(value)
        entry.value.SetInParent()
    return made.SerializeToString()


def record(data):
    size = len(data).to_bytes(8, "little")
    sums = [masked_crc32c(part).to_bytes(4, "little") for part in (size, data)]
    return size + sums[0] + data + sums[1]


def write(path, *features, packed=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record(example(each, packed)) for each in features))
    return path


def png(mask):
    file = io.BytesIO()
    Pillow.fromarray(np.array(mask, np.uint8)).save(file, "PNG")
    return file.getvalue()


def boxes(*rows):
    edges = zip(*(map(float, row) for row in rows), strict=True)
    names = ("xmin", "ymin", "xmax", "ymax")
    return {f"image/object/bbox/{n}": list(e) for n, e in zip(names, edges, strict=True)}


ONE = {
    "image/encoded": JPEG,
    "image/filename": "ä.jpg",
    "image/height": 10,
    "image/width": 20,
    **boxes((0.25, 0.5, 0.75, 1)),
    "image/object/class/text": "cat",
    "image/object/class/label": 1,
}


@pytest.mark.parametrize("packed", [True, False])
def test_shares_become_pixels(tmp_path, packed):
    file = write(tmp_path / "in/my_train.record-00000-of-00001", ONE, packed=packed)
    for path in (file, file.parent):
        assert [f.name for f, _ in recognise(path)] == ["tfrecord"]
        _, splits = converted("tfrecord", path, tmp_path / "out")
        image = splits["train"]["train/000000.jpg"]
        assert image["size"] == (20, 10)
        assert [entry[:2] for entry in image["objects"]] == [("cat", [5, 5, 10, 5])]
        assert image["entry"]["attributes"] == {"original_name": "ä.jpg"}
        assert (tmp_path / "out/images/train/000000.jpg").read_bytes() == JPEG


def test_masks_flags_and_all_that_there_is_one_of_for_each_object(tmp_path):
    mask = np.zeros((10, 20), np.uint8)
    mask[2:4, 3:8] = 1
    features = {
        "image/encoded": JPEG,
        **boxes((0.15, 0.2, 0.4, 0.4), (0, 0, 1, 1)),
        "image/object/class/text": ["cat", "dog"],
        "image/object/mask": [png(mask), png(mask * 0)],
        "image/object/is_crowd": [1, 0],
        "image/object/area": [7.5, 200.0],
        "image/object/difficult": [0, 1],
        "image/object/view": ["left", ""],
        "image/object/weight": [0.5, 1.0],
        "image/object/keypoint/x": [0.5, 0.5, 0.5],
        "image/source_id": "17",
        "image/key/sha256": b"\xff\xfe",
        "image/empty": [],
    }
    write(tmp_path / "in/x.tfrecord", features)
    conversion, splits = converted("tfrecord", tmp_path / "in", tmp_path / "out")
    (image,) = splits["all"].values()
    cat, dog = (entry[2] for entry in image["objects"])
    assert (cat["iscrowd"], cat["area"], dog["iscrowd"]) == (1, 7.5, 0)
    assert cat["attributes"] == {"difficult": False, "view": "left", "weight": 0.5}
    assert dog["attributes"] == {"difficult": True, "weight": 1}
    assert image["entry"]["attributes"] == {"source_id": "17"}
    (loaded,) = load_coco(conversion.files["all"].path).images
    assert np.array_equal(decode_mask(loaded.annotations[0].segmentation), mask)
    assert sorted(note.kind for note in conversion.notes.dropped.values()) == [
        "bytes of key/sha256, which are no text",
        "image/object/keypoint/x, which is not one for each object",
        "mask without a pixel (the box is kept)",
    ]


MAP = """\
# animals
item {
  name: "/m/01yrx"
  id: 2
  display_name: "cat"
}
item: { id: 1, name: 'do\\'g {1}' }
"""


def test_names_of_the_label_map(tmp_path):
    features = ONE | boxes((0, 0, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1))
    features |= {"image/object/class/label": [2, 1, 9], "image/object/class/text": []}
    write(tmp_path / "in/test.record", features, {"image/encoded": JPEG, "image/class/label": 1})
    text(tmp_path / "in/label_map.pbtxt", MAP)
    conversion, splits = converted("tfrecord", tmp_path / "in", tmp_path / "out")
    first, second = splits["test"].values()
    assert [entry[0] for entry in first["objects"]] == ["cat", "do'g {1}", "9"]
    assert second["objects"][0][2]["attributes"] == {"whole_image": True}
    assert list(conversion.files["test"].per_category) == ["do'g {1}", "cat", "9"]
    text(tmp_path / "in/other.pbtxt", MAP)
    with pytest.raises(InputError, match="several label maps"):
        converted("tfrecord", tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="there is no `item"):
        broken = text(tmp_path / "x.pbtxt", "")
        converted("tfrecord", tmp_path / "in", tmp_path / "out", label_map=str(broken))
    with pytest.raises(InputError, match="an item without id or name: 'id: 1'"):
        text(broken, "item { id: 1 }")
        converted("tfrecord", tmp_path / "in", tmp_path / "out", label_map=str(broken))


def test_shards_are_numbered_on_and_large_files_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_tools.formats.tfrecord.ITEM_BYTES", 2 * len(JPEG))
    for shard in range(2):
        write(tmp_path / f"in/val-0000{shard}-of-00002", *[ONE] * 3)
    conversion, splits = converted("tfrecord", tmp_path / "in", tmp_path / "out")
    assert list(splits["val"]) == [f"val/{number:06}.jpg" for number in range(6)]
    assert len(conversion.plan.items) == 4
    (tmp_path / "gz").mkdir()
    packed = tmp_path / "gz/train.tfrecord.gz"
    packed.write_bytes(gzip.compress((tmp_path / "in/val-00000-of-00002").read_bytes()))
    assert [f.name for f, _ in recognise(tmp_path / "gz")] == ["tfrecord"]
    assert len(converted("tfrecord", tmp_path / "gz", tmp_path / "out2")[1]["train"]) == 3


def test_records_without_an_image_and_of_another_size(tmp_path):
    write(tmp_path / "in/x.record", {"image/height": 3}, ONE | {"image/height": 99})
    conversion, splits = converted("tfrecord", tmp_path / "in", tmp_path / "out")
    assert list(splits["all"]) == ["000001.jpg"]
    assert len(conversion.notes.dropped) == len(conversion.notes.suspicious) == 1


GOOD = record(example(ONE))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:-1], r"x\.record\[0\]: the file ends in the middle"),
        (GOOD + GOOD[:5], r"x\.record\[1\]: the file ends in the middle"),
        (b"what is this, if not a record?", "here begins no record"),
        (GOOD[:40] + b"~" + GOOD[41:], r"\[0\]: the checksum is wrong"),
        (record(b"\xff" * 20), "not a tf.train.Example"),
        (record(b"\x0a\x7f"), "a field is longer than what holds it"),
        (record(example(ONE | {"image/encoded": b"no image"})), "not an image of a known kind"),
        (record(example(ONE | {"image/object/bbox/xmin": [0.5, 0.5]})), "2 xmin, 1 ymin"),
        (record(example(ONE | {"image/object/bbox/xmin": b"x"})), "are no numbers"),
        (
            record(example(ONE | {"image/object/class/text": ["a", "b"]})),
            "but 2 image/object/class",
        ),
        (record(example(ONE | {"image/object/mask": png([[1]])})), "no image of the image's size"),
        ((2**40).to_bytes(8, "little"), "in the middle"),
    ],
)
def test_broken_files(tmp_path, content, message):
    (tmp_path / "x.record").write_bytes(content)
    with pytest.raises(InputError, match=message):
        converted("tfrecord", tmp_path / "x.record", tmp_path / "out")


def test_a_record_that_claims_to_be_huge_is_not_read(tmp_path):
    size = (2**40).to_bytes(8, "little")
    (tmp_path / "x.record").write_bytes(size + masked_crc32c(size).to_bytes(4, "little"))
    with pytest.raises(InputError, match="the limit is 1 GiB"):
        converted("tfrecord", tmp_path / "x.record", tmp_path / "out")


values = (
    st.lists(st.binary(max_size=5), min_size=1)
    | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)
    | st.lists(st.floats(width=32, allow_nan=False), min_size=1)
)


@given(st.dictionaries(st.text("aé/_", max_size=4), values, max_size=3), st.booleans())
def test_an_example_is_read_as_google_s_library_wrote_it(features, packed):
    assert read_example(example(features, packed), "x") == features


@given(st.binary(max_size=40))
def test_any_bytes_are_an_example_or_an_input_error(content):
    try:
        assert isinstance(read_example(content, "x"), dict)
    except InputError as error:
        assert "not a tf.train.Example" in str(error)
