"""Every config takes two steps on generated files of the form that its data has on disk."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import mixup  # noqa: F401 (registers the project's meta-architectures and config keys)
import numpy as np
import pytest
import scipy.io
from detectron2.utils.events import EventStorage

from seriatim.data.catalog import unregister_datasets
from seriatim.engine.arguments import parse_arguments
from seriatim.engine.setup import setup
from seriatim.engine.trainer import Trainer

CONFIGS = Path(__file__).parents[3] / "projects" / "Mixup" / "configs"
NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for folder in ("cifar10", "cifar100", "svhn", "fashion", "digits")
    for path in (CONFIGS / folder).glob("*.yaml")
    if path.name not in ("Semi.yaml", "Data.yaml")  # bases of others
)
IMAGES = 4  # of each class


def labels(classes: int) -> list[int]:
    return [number % classes for number in range(IMAGES * classes)]


def pixels(count: int) -> np.ndarray:
    """(count, 3072) uint8: 1024 red, then green, then blue values, row by row."""
    return np.random.default_rng(0).integers(256, size=(count, 3072), dtype=np.uint8)


def write_pickle(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_cifar10(folder: Path) -> None:
    folder /= "cifar-10-batches-py"
    own = labels(10)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        write_pickle(folder / name, {b"data": pixels(len(own)), b"labels": own})
    names = [f"class {n}".encode() for n in range(10)]
    write_pickle(folder / "batches.meta", {b"label_names": names, b"num_vis": 3072})


def write_cifar100(folder: Path) -> None:
    folder /= "cifar-100-python"
    own = labels(100)
    for name in ("train", "test"):
        coarse = [label // 5 for label in own]
        data = pixels(len(own))
        content = {b"data": data, b"fine_labels": own, b"coarse_labels": coarse}
        write_pickle(folder / name, content)
    fine, coarse = (
        [f"{kind} {n}".encode() for n in range(k)] for kind, k in (("f", 100), ("c", 20))
    )
    write_pickle(folder / "meta", {b"fine_label_names": fine, b"coarse_label_names": coarse})


def write_svhn(folder: Path) -> None:
    folder /= "svhn"
    folder.mkdir()
    own = np.array(labels(10), np.uint8)[:, None]
    own[own == 0] = 10  # as the files have it
    images = pixels(len(own)).reshape(-1, 32, 32, 3).transpose(1, 2, 3, 0)
    for split in ("train", "test"):
        scipy.io.savemat(folder / f"{split}_32x32.mat", {"X": images, "y": own})


def write_small(folder: Path) -> None:
    arrays = {"class_names": np.array([f"class {n}" for n in range(10)])}
    for split in ("train", "test"):
        own = np.array(labels(10), np.uint8)
        arrays[f"x_{split}"] = pixels(len(own))[:, : 14 * 14].reshape(-1, 14, 14)
        arrays[f"y_{split}"] = own
    (folder.parent / "output" / "mixup").mkdir(parents=True)
    for name in ("fashion14", "digits14"):
        np.savez_compressed(folder.parent / "output" / "mixup" / f"{name}.npz", **arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("data")
    (top / "datasets").mkdir()
    for write in (write_cifar10, write_cifar100, write_svhn, write_small):
        write(top / "datasets")
    return top


def configure(name: str, *opts: str):
    few = ["SERIATIM.SOLVER.EPOCHS", "0", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"]
    options = [*few, "DATALOADER.NUM_WORKERS", "0", "SEED", "0", "MODEL.DEVICE", "cpu", *opts]
    return setup(parse_arguments(["--config-file", str(CONFIGS / name), *options]))


def take_two_steps(cfg) -> list[dict[str, float]]:
    trainer = Trainer(cfg)
    seen = []
    with EventStorage() as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()
            if hasattr(trainer.bare_model, "after_step"):
                trainer.bare_model.after_step()
            latest = trainer.storage.latest()
            seen.append({k: v for k, (v, _) in latest.items() if "loss" in k})
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_config_takes_two_steps(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    # A quarter of the pixels: a quarter of the time.
    smaller = (
        []
        if name.startswith(("fashion", "digits"))
        else ["SERIATIM.CLASSIFICATION.SIZE", "(16, 16)"]
    )
    validation = "0" if name.startswith(("fashion", "digits")) else "1"
    draw = ["SERIATIM.SEMI.VALIDATION_PER_CLASS", validation]
    if "semi" in name.lower() or Path(name).stem.startswith(("ict", "mixmatch", "fixmatch")):
        draw += ["SERIATIM.SEMI.LABELS_PER_CLASS", "1"]
    elif name.startswith(("fashion", "digits")):
        draw += ["SERIATIM.SEMI.LABELS_PER_CLASS", "2"]
    cfg = configure(name, *smaller, *draw)
    classes = cfg.MODEL.CLASSIFIER.NUM_CLASSES
    assert classes == (100 if name.startswith("cifar100") else 10)
    first, second = take_two_steps(cfg)
    unregister_datasets([entry["NAME"] for entry in cfg.SERIATIM.DATASETS])
    assert all(math.isfinite(value) for step in (first, second) for value in step.values())
    semi = cfg.MODEL.META_ARCHITECTURE != "ImageClassifier"
    assert ("loss_unlabelled" in first) == semi
    total = first["loss_cls"] if semi else first["total_loss"]
    if not cfg.SERIATIM.MIX.NAME and cfg.MODEL.META_ARCHITECTURE != "MixMatchClassifier":
        assert total == pytest.approx(math.log(classes), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ict", "mixmatch", "fixmatch"])
def test_a_resumed_run_equals_an_unbroken_one(method, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)

    def run(output: Path, steps: int, resume: bool) -> dict:
        opts = ["SERIATIM.SEMI.LABELS_PER_CLASS", "1", "OUTPUT_DIR", str(output)]
        opts += ["SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3", "DATASETS.TEST", "()"]
        cfg = configure(f"fashion/{method}.yaml", *opts, "MIXUP.TEACHER_DECAY", "0.5")
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.max_iter = steps
        trainer.train()
        model = trainer.bare_model
        assert model.steps == steps
        return {k: v.clone() for k, v in model.state_dict().items()}

    whole = run(tmp_path / "whole", 6, resume=False)
    run(tmp_path / "broken", 3, resume=False)
    again = run(tmp_path / "broken", 6, resume=True)
    assert any(name.startswith("teacher.") for name in whole)
    assert all((whole[name] == again[name]).all() for name in whole)
    unregister_datasets(["fashion14_train", "fashion14_test"])
