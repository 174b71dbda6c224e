"""Stores of pixels: the same images from each of them."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from dataset_tools.errors import InputError
from seriatim.data.classification.stores import (
    FileBlock,
    Layout,
    MappedBlock,
    MemoryBlock,
    PixelStore,
    write_block,
)
from seriatim.data.loader import build_train_loader
from seriatim.testing.labelled import make_labelled, write_image_folder, write_npz


def ragged(seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, (20, 2))
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]
    return images, Layout(sizes[:, 0], sizes[:, 1], 3)


@pytest.mark.parametrize("kind", ["memory", "mmap", "disk"])
def test_every_block_gives_each_image_back(tmp_path, kind):
    images, layout = ragged()
    write_block(tmp_path / "x.pixels", images)
    joined = np.concatenate([image.reshape(-1) for image in images])
    blocks = {"memory": MemoryBlock(joined), "mmap": MappedBlock(tmp_path / "x.pixels")}
    block = blocks.get(kind) or FileBlock(tmp_path / "x.pixels")
    store = PixelStore(layout, block)
    assert len(store) == 20 and layout.nbytes == joined.size
    for copy in (store, pickle.loads(pickle.dumps(store))):
        for number, image in enumerate(images):
            found = copy.pixels(number)
            assert np.array_equal(found, image) and not found.flags.writeable


def test_a_store_on_disk_is_sent_without_its_pixels(tmp_path):
    images = np.zeros((1000, 16, 16, 3), np.uint8)
    write_block(tmp_path / "x.pixels", images)
    layout = Layout(np.full(1000, 16), np.full(1000, 16), 3)
    for block in (MappedBlock, FileBlock):
        store = PixelStore(layout, block(tmp_path / "x.pixels"))
        store.pixels(0)
        assert len(pickle.dumps(store)) < 0.1 * images.nbytes


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_storage(tmp_path, labelled, workers):
    path = write_npz(tmp_path / "x.npz", 40)
    seen = []
    for storage in ("memory", "mmap", "disk"):
        cfg = labelled({"NAME": "a", "LABELS": str(path)}, STORAGE=storage)
        cfg.DATALOADER.NUM_WORKERS = workers
        cfg.SERIATIM.CLASSIFICATION.CROP, cfg.SERIATIM.CLASSIFICATION.HFLIP = "pad", 0.5
        batch = next(iter(build_train_loader(cfg)))
        seen.append([(r["image_id"], r["label"], r["image"].numpy().tobytes()) for r in batch])
    assert seen[0] == seen[1] == seen[2]


def test_automatic_choice_is_by_size(tmp_path, labelled):
    path = write_npz(tmp_path / "x.npz", 400)  # 1.2 MiB
    folder = write_image_folder(tmp_path / "f", 360)
    packed, files = {"NAME": "a", "LABELS": str(path)}, {"NAME": "b", "LABELS": str(folder)}
    files["SPLIT"] = "train"

    def blocks(limit):
        labelled(packed, files, MEMORY_MIB=limit)
        stores = [DatasetCatalog.get(name).store for name in "ab"]
        return [type(getattr(store, "block", store)).__name__ for store in stores]

    assert blocks(2) == ["MemoryBlock", "MemoryBlock"]
    assert blocks(1) == ["MappedBlock", "ImageFiles" if 360 * 3072 > 2**20 else "MemoryBlock"]


def test_the_cache_is_by_content_and_mended(tmp_path, labelled):
    images, _ = make_labelled(30)
    entries = [write_npz(tmp_path / f"{name}.npz", 30) for name in "xy"]

    def read(path, storage="mmap"):
        labelled({"NAME": "a", "LABELS": str(path)}, STORAGE=storage)
        return np.stack([r["pixels"] for r in DatasetCatalog.get("a")])

    assert np.array_equal(read(entries[0]), images)
    os.utime(entries[0])
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(b"cut off")
    assert np.array_equal(read(entries[0], "disk"), images)
    from seriatim.data import catalog

    catalog.unregister_datasets(["a"])
    read(entries[1])  # the same images under another name
    assert [cached] == list((tmp_path / "cache").iterdir())


def test_unknown_storage(tmp_path, labelled):
    path = write_npz(tmp_path / "x.npz")
    with pytest.raises(InputError, match="auto, memory, mmap, disk"):
        labelled({"NAME": "a", "LABELS": str(path)}, STORAGE="ram")


def test_files_of_another_size_than_recorded(tmp_path, labelled):
    from PIL import Image

    from dataset_tools.convert import convert_dataset

    folder = write_image_folder(tmp_path / "f")
    path = convert_dataset("imagefolder", folder, tmp_path / "out").files["test"].path
    Image.new("RGB", (9, 9)).save(next((folder / "test").rglob("*.png")))
    with pytest.raises(InputError, match="is 9×9 px, but its dataset says 32×32"):
        labelled({"NAME": "a", "JSON": str(path), "CLASSIFICATION": True}, STORAGE="memory")
