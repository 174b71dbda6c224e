import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_tools.coco import Dataset, Image
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.formats import recognise
from tests.dataset_tools.datasets import picture_bytes, save
from tests.dataset_tools.makers import converted, picture, text


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def objects(splits, name="a.jpg", split="all"):
    return [(entry[0], entry[1]) for entry in splits[split][name]["objects"]]


ROW = {"file_name": "a.jpg", "objects": {"bbox": [[2, 3, 6, 4]], "categories": [1]}}


@pytest.mark.parametrize(
    ("written", "options", "expected"),
    [
        ({"bbox": [[2, 3, 6, 4]], "categories": [1]}, {}, [("1", [2, 3, 6, 4])]),
        ({"bbox": [[2, 3, 6, 4.5]], "category": ["cat"]}, {}, [("cat", [2, 3, 6, 4.5])]),
        ([{"bbox": [2, 3, 6, 4], "label": "cat"}], {}, [("cat", [2, 3, 6, 4])]),
        ({"bbox": [[2, 3, 8, 7]], "category": [1]}, {"box": "xyxy"}, [("1", [2, 3, 6, 4])]),
        ({"bbox": [[5, 5, 6, 4]], "category": [1]}, {"box": "cxcywh"}, [("1", [2, 3, 6, 4])]),
        ({"bbox": [], "category": []}, {}, []),
        ('{"bbox": [[2, 3, 6, 4]], "category": [1]}', {}, [("1", [2, 3, 6, 4])]),
    ],
)
def test_forms_of_objects(tmp_path, written, options, expected):
    picture(tmp_path / "in/a.jpg")
    text(tmp_path / "in/metadata.jsonl", jsonl({"file_name": "a.jpg", "objects": written}))
    _, splits = converted("hf-folder", tmp_path / "in", tmp_path / "out", **options)
    assert objects(splits) == expected


def test_flags_labels_captions_and_the_rest(tmp_path):
    picture(tmp_path / "in/b/a.jpg")
    row = {
        "b_file_name": "b\\a.jpg",
        "objects": {
            "bbox": [[2, 3, 6, 4], [0, 0, 1, 1]],
            "category": [0, 1],
            "iscrowd": [1, 0],
            "area": [20, 1],
            "pose": ["left", None],
        },
        "label": 1,
        "text": "Two cats.",
        "licence": "CC0",
        "width": 20,
    }
    text(tmp_path / "in/metadata.jsonl", b"\xef\xbb\xbf" + jsonl(row).encode() + b"\r\n")
    names = text(tmp_path / "names.txt", "zebra\ncat\n")
    conversion, splits = converted("hf-folder", tmp_path / "in", tmp_path / "out", names=str(names))
    image = splits["all"]["b/a.jpg"]
    first, second, label = (entry[2] for entry in image["objects"])
    assert [entry[0] for entry in image["objects"]] == ["zebra", "cat", "cat"]
    assert (first["iscrowd"], first["area"], first["attributes"]) == (1, 20, {"pose": "left"})
    assert (second["iscrowd"], second["area"]) == (0, 1) and "attributes" not in second
    assert label["attributes"] == {"whole_image": True} and label["bbox"] == [0, 0, 20, 10]
    assert image["entry"]["attributes"] == {"captions": ["Two cats."], "licence": "CC0"}
    assert list(conversion.files["all"].per_category) == ["zebra", "cat"]


def test_csv_with_numbers_texts_and_quotes_and_splits_by_folder(tmp_path):
    for name in ("train/a.jpg", "validation/a.jpg", "validation/extra.jpg"):
        picture(tmp_path / "in" / name)
    text(tmp_path / "in/train/metadata.csv", 'file_name,label,text\r\na.jpg,10,"Ä ""cat"",\nx"\r\n')
    text(tmp_path / "in/validation/metadata.jsonl", jsonl({"file_name": "a.jpg", "label": "9"}))
    conversion, splits = converted("hf-folder", tmp_path / "in", tmp_path / "out")
    assert objects(splits, "train/a.jpg", "train") == [("10", [0, 0, 20, 10])]
    assert objects(splits, "validation/a.jpg", "val") == [("9", [0, 0, 20, 10])]
    image = splits["train"]["train/a.jpg"]["entry"]
    assert image["attributes"]["captions"] == ['Ä "cat",\nx']
    assert list(conversion.files["train"].per_category) == ["9", "10"]
    (note,) = conversion.notes.dropped.values()
    assert note.places == ["validation/extra.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"file_name": "a.jpg"}\n{', r"metadata\.jsonl:2: not JSON"),
        ("[1]\n", "not an object"),
        ('{"name": "a.jpg"}', "there is no file_name"),
        ('{"file_name": "b.jpg"}', r"jsonl:1: the image b.jpg is not in"),
        ('{"file_name": "../a.jpg"}', "leads out of the folder"),
        (jsonl(ROW | {"objects": {"bbox": [[1, 2, 3]], "category": [1]}}), "four numbers, not 3"),
        (jsonl(ROW | {"objects": {"bbox": [[1, 2, 3, "x"]], "category": [1]}}), "not a number"),
        (jsonl(ROW | {"objects": {"bbox": [[1, 2, 3, 4]], "category": []}}), "not of one length"),
        (jsonl(ROW | {"objects": 3}), "neither a list of objects nor"),
        (jsonl(ROW | {"objects": "{"}), "is text, but not JSON"),
        (jsonl(ROW | {"label": 1.5}), "label is 1.5, not a class"),
    ],
)
def test_broken_metadata(tmp_path, content, message):
    picture(tmp_path / "in/a.jpg")
    text(tmp_path / "in/metadata.jsonl", content)
    with pytest.raises(InputError, match=message):
        converted("hf-folder", tmp_path / "in", tmp_path / "out")


def test_two_kinds_of_metadata_in_a_folder(tmp_path):
    text(tmp_path / "in/metadata.jsonl", jsonl(ROW))
    text(tmp_path / "in/metadata.csv", "file_name\na.jpg\n")
    with pytest.raises(InputError, match="Keep one"):
        converted("hf-folder", tmp_path / "in", tmp_path / "out")


JPEG, PNG = picture_bytes(20, 10, ".jpg"), picture_bytes(6, 5, ".png")


def parquet(path, rows, features=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if features is not None:
        content = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": content})
    pq.write_table(table, path, **options)
    return path


def held(content=JPEG, path=None):
    return {"bytes": content, "path": path}


FEATURES = {
    "image": {"_type": "Image"},
    "objects": {
        "_type": "Sequence",
        "feature": {
            "bbox": {"_type": "Sequence", "feature": {"dtype": "float32", "_type": "Value"}},
            "category": {"_type": "ClassLabel", "names": ["zebra", "cat"]},
            "view": {"_type": "ClassLabel", "names": ["left", "right"]},
        },
    },
    "label": {"_type": "ClassLabel", "names": ["no", "yes"]},
}


def test_names_of_classes_are_in_the_schema(tmp_path):
    row = {
        "image": held(),
        "objects": {"bbox": [[2.0, 3.0, 6.0, 4.0]], "category": [1], "view": [0]},
        "label": 1,
    }
    file = parquet(tmp_path / "in/data/train-00000-of-00001-abc.parquet", [row], FEATURES)
    for path in (file, tmp_path / "in"):
        assert [f.name for f, _ in recognise(path)] == ["hf-parquet"]
        conversion, splits = converted("hf-parquet", path, tmp_path / "out")
        assert objects(splits, "train/000000.jpg", "train") == [
            ("cat", [2, 3, 6, 4]),
            ("yes", [0, 0, 20, 10]),
        ]
        entry = splits["train"]["train/000000.jpg"]["objects"][0][2]
        assert entry["attributes"] == {"view": "left"}
        assert list(conversion.files["train"].per_category) == ["zebra", "cat", "no", "yes"]
        assert (tmp_path / "out/images/train/000000.jpg").read_bytes() == JPEG


def test_files_may_have_other_columns_but_no_other_classes(tmp_path):
    row = {"image": held(), "objects": {"bbox": [[2.0, 3.0, 6.0, 4.0]], "category": [1]}}
    other = {key: FEATURES[key] for key in ("image", "label")}
    parquet(tmp_path / "in/test.parquet", [{"image": held(), "label": 1}], other)
    parquet(tmp_path / "in/train.parquet", [row], FEATURES)
    _, splits = converted("hf-parquet", tmp_path / "in", tmp_path / "out")
    assert objects(splits, "test/000000.jpg", "test")[0][0] == "yes"
    assert objects(splits, "train/000000.jpg", "train")[0][0] == "cat"
    other["label"] = {"_type": "ClassLabel", "names": ["a", "b"]}
    parquet(tmp_path / "in/val.parquet", [{"image": held(), "label": 1}], other)
    with pytest.raises(InputError, match=r"val\.parquet: the classes of label are not those"):
        converted("hf-parquet", tmp_path / "in", tmp_path / "out")


def test_features_of_newer_versions_lists_of_structs(tmp_path):
    features = {
        "image": {"_type": "Image"},
        "objects": [FEATURES["objects"]["feature"]],
        "tags": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["x"]}},
    }
    row = {"image": held(), "objects": [{"bbox": [2.0, 3.0, 6.0, 4.0], "category": 0}]}
    parquet(tmp_path / "in/test.parquet", [row], features)
    _, splits = converted("hf-parquet", tmp_path / "in", tmp_path / "out")
    assert objects(splits, "test/000000.jpg", "test") == [("zebra", [2, 3, 6, 4])]


def test_shards_row_groups_and_names_of_images(tmp_path):
    rows = [{"image": held(PNG if i == 1 else JPEG, f"/tmp/x/{i}.jpg")} for i in range(3)]
    parquet(tmp_path / "in/train-00000-of-00002.parquet", rows, row_group_size=2)
    parquet(tmp_path / "in/train-00001-of-00002.parquet", [{"image": held(JPEG, "C:\\y\\9.jpg")}])
    same = [{"image": held(JPEG, "a.jpg")}, {"image": held(PNG, "a.jpg")}]
    parquet(tmp_path / "in/validation/0000.parquet", same)
    parquet(tmp_path / "in/validation/0001.parquet", [{"image": held(None)}, *same[1:]])
    conversion, splits = converted("hf-parquet", tmp_path / "in", tmp_path / "out")
    assert [*splits["train"]] == [f"train/{i}.jpg" for i in (0, 1, 2, 9)]
    # Names that are there twice would overwrite each other: numbers, with the true suffix.
    assert [*splits["val"]] == ["val/000000.jpg", "val/000001.png", "val/000003.png"]
    assert splits["val"]["val/000001.png"]["size"] == (6, 5)
    (note,) = conversion.notes.dropped.values()
    assert note.kind == "row without an image" and note.places[0].endswith("0001.parquet[0]")


def test_images_beside_the_file_and_plain_bytes(tmp_path):
    picture(tmp_path / "photos/b/a.jpg")
    parquet(tmp_path / "in/x.parquet", [{"image": held(None, "b/a.jpg"), "text": "Hi."}])
    with pytest.raises(InputError, match="neither in the file nor in"):
        converted("hf-parquet", tmp_path / "in", tmp_path / "out")
    _, splits = converted(
        "hf-parquet", tmp_path / "in", tmp_path / "out", images=tmp_path / "photos"
    )
    assert splits["all"]["b/a.jpg"]["entry"]["attributes"] == {"captions": ["Hi."]}
    parquet(tmp_path / "plain/x.parquet", [{"img": PNG, "label": 3}])
    _, splits = converted("hf-parquet", tmp_path / "plain", tmp_path / "out2")
    assert objects(splits, "000000.png") == [("3", [0, 0, 6, 5])]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1}], "none of its columns a holds images"),
        ([{"image": held(b"what")}], r"x\.parquet\[0\]: not an image"),
        ([{"image": held(None, "../a.jpg")}], "leads out of the folder"),
        ([{"image": held(), "label": 1.5}], "label is 1.5, not a class"),
    ],
)
def test_broken_rows(tmp_path, rows, message):
    parquet(tmp_path / "in/x.parquet", rows)
    with pytest.raises(InputError, match=message):
        converted("hf-parquet", tmp_path / "in", tmp_path / "out")


def test_broken_files_and_a_missing_package(tmp_path, monkeypatch):
    file = parquet(tmp_path / "in/x.parquet", [{"image": held()}])
    content = bytearray(file.read_bytes())
    file.write_bytes(content[:-9])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        converted("hf-parquet", tmp_path / "in", tmp_path / "out")
    assert recognise(tmp_path / "in") == []
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"`pip install pyarrow`"):
        converted("hf-parquet", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("many", [False, True])
def test_captions_of_a_folder_are_all_texts_or_all_lists(tmp_path, many):
    splits = {None: Dataset([Image(f"{i}.jpg", 20, 10, id=i) for i in (1, 2)], [])}
    first, second = splits[None].images
    first.attributes["captions"] = ["one"]
    second.attributes["captions"] = ["two", "three"][: 1 + many]
    export_dataset("hf-folder", save(splits, tmp_path), tmp_path / "out")
    lines = (tmp_path / "out/metadata.jsonl").read_text().splitlines()
    expected = [["one"], ["two", "three"]] if many else ["one", "two"]
    assert [json.loads(line)["text"] for line in lines] == expected
