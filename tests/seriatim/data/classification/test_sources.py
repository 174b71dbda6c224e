"""Datasets of labelled images from the files that they are handed out in."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.data import catalog
from seriatim.testing.labelled import (
    CIFAR10_CLASSES,
    make_labelled,
    write_cifar,
    write_idx,
    write_image_folder,
    write_npz,
    write_svhn,
)

DIGITS = tuple(map(str, range(10)))


def pixels_of(dataset):
    return np.stack([record["pixels"] for record in dataset])


def test_cifar10_is_read_in_the_order_of_its_batches(tmp_path, labelled):
    folder = write_cifar(tmp_path / "cifar-10-batches-py")
    labelled(
        {"NAME": "a", "LABELS": str(folder), "SPLIT": "train"},
        {"NAME": "b", "LABELS": str(folder), "SPLIT": "test", "FORMAT": "cifar"},
    )
    for name, count, seed in (("a", 100, 0), ("b", 40, 1)):
        images, labels = make_labelled(count, seed=seed)
        dataset = DatasetCatalog.get(name)
        assert dataset.class_names == CIFAR10_CLASSES
        assert np.array_equal(pixels_of(dataset), images)
        assert [record["label"] for record in dataset] == labels.tolist()
        assert [record["image_id"] for record in dataset] == list(range(count))
    record = dataset[3]
    assert record["file_name"] == "b#3" and (record["height"], record["width"]) == (32, 32)
    assert not record["pixels"].flags.writeable
    assert MetadataCatalog.get("a").thing_classes == list(CIFAR10_CLASSES)
    assert MetadataCatalog.get("a").evaluator_type == "classification"
    assert catalog.dataset_facts("a").per_category["cat"] == 10


def test_cifar100_has_its_fine_labels(tmp_path, labelled):
    folder = write_cifar(tmp_path / "cifar-100-python", train=200, test=100, classes=100)
    labelled({"NAME": "a", "LABELS": str(folder), "SPLIT": "test"})
    dataset = DatasetCatalog.get("a")
    images, labels = make_labelled(100, 100, seed=1)
    assert dataset.labels.tolist() == labels.tolist() and len(dataset.class_names) == 100
    assert np.array_equal(pixels_of(dataset), images)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_stays_grey(tmp_path, labelled, packed):
    folder = write_idx(tmp_path / "mnist", packed=packed)
    labelled({"NAME": "a", "LABELS": str(folder), "SPLIT": "test", "FORMAT": "idx"})
    images, labels = make_labelled(40, size=28, channels=1, seed=1)
    dataset = DatasetCatalog.get("a")
    assert np.array_equal(pixels_of(dataset), images) and pixels_of(dataset).shape[3] == 1
    assert dataset.labels.tolist() == labels.tolist() and dataset.class_names == DIGITS


def test_svhn_s_ten_is_zero(tmp_path, labelled):
    folder = write_svhn(tmp_path / "svhn")
    labelled({"NAME": "a", "LABELS": str(folder), "SPLIT": "train"})
    images, labels = make_labelled(100)
    dataset = DatasetCatalog.get("a")
    assert np.array_equal(pixels_of(dataset), images)
    assert dataset.labels.tolist() == labels.tolist() and dataset.class_names == DIGITS


def test_npz_is_divided_as_convert_divides_it(tmp_path, labelled):
    path = write_npz(tmp_path / "usps.npz", 60, size=16, channels=1)
    shares = {"train": 0.7, "test": 0.3}
    labelled(
        {"NAME": "a", "LABELS": str(path), "SPLIT": "train", "FRACTIONS": shares},
        {"NAME": "b", "LABELS": str(path), "SPLIT": "test", "FRACTIONS": shares},
        {"NAME": "c", "LABELS": str(path)},
    )
    images, labels = make_labelled(60, size=16, channels=1)
    parts = [DatasetCatalog.get(name) for name in "ab"]
    convert_dataset("npz", path, tmp_path / "out", fractions=shares)
    for part, split in zip(parts, shares, strict=True):
        ids = part.ids.tolist()
        content = json.loads((tmp_path / "out" / f"{split}.json").read_text())
        assert {f"{i:05}.png" for i in ids} == {image["file_name"] for image in content["images"]}
        assert np.array_equal(pixels_of(part), images[ids])
        assert part.labels.tolist() == labels[ids].tolist()
    assert sorted(i for part in parts for i in part.ids.tolist()) == list(range(60))
    assert len(DatasetCatalog.get("c")) == 60


@pytest.mark.parametrize("storage", ["auto", "memory", "mmap", "disk"])
def test_image_folder_with_images_of_different_sizes(tmp_path, labelled, storage):
    folder = write_image_folder(tmp_path / "insects", sizes=(20, 31))
    labelled({"NAME": "a", "LABELS": str(folder), "SPLIT": "train"}, STORAGE=storage)
    dataset = DatasetCatalog.get("a")
    assert dataset.class_names == ("ant", "bee", "wasp") and len(dataset) == 30
    for record in dataset:
        assert f"train/{dataset.class_names[record['label']]}/" in record["file_name"]
        with Image.open(record["file_name"]) as image:
            assert (record["width"], record["height"]) == image.size
            if storage in ("disk",):
                assert "pixels" not in record
            else:
                assert np.array_equal(record["pixels"], np.asarray(image))


def test_coco_with_labels_of_whole_images(tmp_path, labelled):
    folder = write_image_folder(tmp_path / "insects")
    converted = convert_dataset("imagefolder", folder, tmp_path / "out")
    entry = {"NAME": "a", "JSON": str(converted.files["test"].path), "CLASSIFICATION": True}
    labelled(entry)
    dataset = DatasetCatalog.get("a")
    assert dataset.class_names == ("ant", "bee", "wasp") and len(dataset) == 12
    for record in dataset:
        assert f"/{dataset.class_names[record['label']]}/" in record["file_name"]
    assert MetadataCatalog.get("a").json_file == entry["JSON"]


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_coco_images_without_a_label_or_with_two(tmp_path, labelled):
    folder = write_image_folder(tmp_path / "insects")
    converted = convert_dataset("imagefolder", folder, tmp_path / "out")
    path = converted.files["test"].path
    entry = {"NAME": "a", "JSON": str(path), "CLASSIFICATION": True}
    change(path, lambda content: content["annotations"].pop(0))
    labelled(entry)
    assert [r["label"] for r in DatasetCatalog.get("a")].count(-1) == 1
    assert catalog.dataset_facts("a").empty_images == 1

    def twice(content):
        another = dict(content["annotations"][0], id=99, category_id=3)
        content["annotations"].append(another)

    change(path, twice)
    with pytest.raises(InputError, match="of several classes: ant, wasp"):
        labelled(entry)


def test_torchvision_reads_the_same_from_the_same_files(tmp_path, labelled):
    """It is an independent reader, and the files are in the form that it knows."""
    from torchvision import datasets

    class CIFAR10(datasets.CIFAR10):
        def _check_integrity(self):
            return True

        def _load_meta(self):
            self.classes = list(CIFAR10_CLASSES)

    folder = write_cifar(tmp_path / "cifar-10-batches-py")
    theirs = CIFAR10(str(tmp_path), train=True)
    labelled({"NAME": "a", "LABELS": str(folder), "SPLIT": "train"})
    assert np.array_equal(pixels_of(DatasetCatalog.get("a")), theirs.data)
    assert DatasetCatalog.get("a").labels.tolist() == theirs.targets

    raw = write_idx(tmp_path / "MNIST" / "raw", packed=False)
    mnist = datasets.MNIST(str(tmp_path), train=False)
    labelled({"NAME": "b", "LABELS": str(raw), "SPLIT": "test"})
    assert np.array_equal(pixels_of(DatasetCatalog.get("b"))[..., 0], mnist.data.numpy())
    assert DatasetCatalog.get("b").labels.tolist() == mnist.targets.tolist()


# What is wrong


def register(**entry):
    cfg = get_cfg()
    cfg.SERIATIM.DATASETS = [{"NAME": "a", **entry}]
    return catalog.register_datasets(cfg)


@pytest.mark.parametrize(
    ("path", "format_name", "words"),
    [
        ("cifar-10-batches-py", "auto", ["c58f30108f718f92721af3b95e74349a", "cifar-10-python"]),
        ("cifar-100-python", "cifar", ["eb9058c3a382ffc7106e4002c42a8d85"]),
        ("svhn", "auto", ["e26dedcc434d2e4c54c9b2d4a06d8373", "train_32x32.mat"]),
        ("mnist", "idx", ["f68b3c2dcbeaaa9fbdd348bbdeb94873", "train-images-idx3-ubyte.gz"]),
        ("fashion-mnist", "auto", ["8d4fb7e6c68d591d4c3dfef9ec88bf0d", "dataset-fashion-mnist"]),
        ("usps", "auto", ["ec16c51db3855ca6c91edd34d0e9b197", "usps.t.bz2"]),
        ("mine", "auto", ["no file or folder"]),
    ],
)
def test_missing_files_are_told_where_to_get_and_to_put(tmp_path, path, format_name, words):
    with pytest.raises(InputError) as error:
        register(LABELS=str(tmp_path / path), FORMAT=format_name, SPLIT="train")
    assert all(word in str(error.value) for word in [*words, str(tmp_path / path)])


def test_splits_that_are_not_there(tmp_path):
    folder = write_cifar(tmp_path / "cifar")
    with pytest.raises(InputError, match=r"SPLIT is not given, but .* splits test, train"):
        register(LABELS=str(folder))
    with pytest.raises(InputError, match=r"SPLIT is 'val', but .* splits test, train"):
        register(LABELS=str(folder), SPLIT="val")
    path = write_npz(tmp_path / "x.npz")
    with pytest.raises(InputError, match=r"has no splits.* FRACTIONS"):
        register(LABELS=str(path), SPLIT="train")
    with pytest.raises(InputError, match="SPLIT is one of train, test"):
        register(LABELS=str(path), FRACTIONS={"train": 0.5, "test": 0.5})


def test_entries_that_are_wrong(tmp_path):
    path = write_npz(tmp_path / "x.npz")
    with pytest.raises(InputError, match="no option wrong; it has keys, names"):
        register(LABELS=str(path), OPTIONS={"wrong": 1})
    with pytest.raises(InputError, match="kitti have no labels of whole images"):
        register(LABELS=str(path), FORMAT="kitti")
    with pytest.raises(InputError, match="SPLIT goes with LABELS"):
        register(JSON=str(path), SPLIT="train")
    with pytest.raises(InputError, match="ROTATED does not go with LABELS"):
        register(LABELS=str(path), ROTATED=True)
    with pytest.raises(InputError, match="FRACTIONS is a mapping"):
        register(LABELS=str(path), FRACTIONS=[0.5, 0.5])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="which format"):
        register(LABELS=str(tmp_path / "empty"))


def test_options_reach_the_format(tmp_path, labelled):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"n{i}" for i in range(10)))
    path = write_npz(tmp_path / "x.npz")
    labelled({"NAME": "a", "LABELS": str(path), "OPTIONS": {"names": str(names)}})
    assert DatasetCatalog.get("a").class_names[3] == "n3"


class Evil:
    def __reduce__(self):
        return print, ("code of the file",)


def test_a_pickle_s_code_is_not_run(tmp_path, capsys):
    folder = write_cifar(tmp_path / "cifar")
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))
    with pytest.raises(InputError, match="data_batch_3"):
        register(LABELS=str(folder), SPLIT="train")
    assert "code of the file" not in capsys.readouterr().out


def test_a_file_that_changes_is_read_anew(tmp_path, labelled):
    path = write_npz(tmp_path / "x.npz", 20)
    entry = {"NAME": "a", "LABELS": str(path)}
    labelled(entry)
    first = DatasetCatalog.get("a")
    labelled(entry)
    assert DatasetCatalog.get("a") is first
    write_npz(path, 30)
    labelled(entry)
    assert len(DatasetCatalog.get("a")) == 30
