"""What a user can get wrong: one paragraph, exit code 2, and no traceback."""

import json
import os
import shutil

import pytest
import torch

from dataset_tools.errors import run
from seriatim.data import catalog
from seriatim.engine.run import start

from .support import arguments, write_config


@pytest.fixture(autouse=True)
def forget_datasets():
    yield
    catalog.unregister_datasets(list(catalog._registered))


def complain(capsys, config, *words):
    """The message that train_net.py would end with; it must be one paragraph with exit code 2."""
    code = run(lambda: start(arguments(config, *map(str, words))))
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("error: ") and "Traceback" not in error
    assert "\n\n" not in error.strip()
    return " ".join(error.split())


def test_a_missing_config_file(tmp_path, capsys):
    write_config(tmp_path)
    message = complain(capsys, tmp_path / "nothing.yaml")
    assert "nothing.yaml" in message and "config.yaml" in message


def test_a_missing_annotation_file(tmp_path, capsys):
    config = write_config(tmp_path)
    (tmp_path / "train" / "shapes.json").unlink()
    assert "train/shapes.json" in complain(capsys, config)


def test_broken_json(tmp_path, capsys):
    config = write_config(tmp_path)
    path = tmp_path / "train" / "shapes.json"
    path.write_text(path.read_text()[:200])
    assert "shapes.json" in complain(capsys, config)


def test_a_wrong_class_count(tmp_path, capsys):
    message = complain(capsys, write_config(tmp_path), "MODEL.RETINANET.NUM_CLASSES", "80")
    assert "80" in message and "circle" in message


def test_an_unknown_key(tmp_path, capsys):
    message = complain(capsys, write_config(tmp_path), "SOLVER.BASE_LEARNING_RATE", "0.1")
    assert "SOLVER.BASE_LEARNING_RATE" in message and "command line" in message


def test_a_value_of_another_type(tmp_path, capsys):
    assert "MAX_ITER" in complain(capsys, write_config(tmp_path), "SOLVER.MAX_ITER", "many")


def test_a_corrupt_image(tmp_path, capsys):
    config = write_config(tmp_path)
    for image in (tmp_path / "train" / "images").iterdir():
        image.write_bytes(image.read_bytes()[:60])
    message = complain(capsys, config)
    assert str(tmp_path / "train" / "images") in message


def test_an_empty_dataset(tmp_path, capsys):
    config = write_config(tmp_path)
    path = tmp_path / "train" / "shapes.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"images": [], "annotations": []}))
    assert "no images" in complain(capsys, config)


def test_no_write_permission(tmp_path, capsys):
    """A folder below a file cannot be made, whoever asks (root may write anywhere else)."""
    (tmp_path / "file").touch()
    message = complain(capsys, write_config(tmp_path), "OUTPUT_DIR", tmp_path / "file" / "output")
    assert "OUTPUT_DIR" in message and "cannot be written" in message


def test_a_full_disk(tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # the checkpoint's last act before it gets its name
    message = complain(capsys, write_config(tmp_path), "SOLVER.CHECKPOINT_PERIOD", "1")
    assert "disk is full" in message
    assert not list((tmp_path / "output").glob("*.pth"))


def test_a_checkpoint_of_another_model(tmp_path, capsys):
    torch.save({"model": {"layer.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    message = complain(capsys, write_config(tmp_path), "MODEL.WEIGHTS", tmp_path / "other.pth")
    assert "another model" in message and "other.pth" in message


def test_a_truncated_checkpoint(tmp_path, capsys):
    torch.save({"model": {"layer.weight": torch.zeros(300)}}, tmp_path / "cut.pth")
    data = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    message = complain(capsys, write_config(tmp_path), "MODEL.WEIGHTS", tmp_path / "cut.pth")
    assert "cut off" in message and "cut.pth" in message


def test_resuming_the_checkpoint_of_another_architecture(tmp_path, capsys):
    config = write_config(tmp_path, SOLVER__MAX_ITER=1)
    assert run(lambda: start(arguments(config))) == 0
    capsys.readouterr()
    message = complain(capsys, config, "--resume", "MODEL.FPN.OUT_CHANNELS", "8")
    assert "cannot be resumed" in message


def test_a_run_is_not_overwritten(tmp_path, capsys):
    config = write_config(tmp_path)
    (tmp_path / "output").mkdir()
    shutil.copy(config, tmp_path / "output" / "model_final.pth")
    assert "--overwrite" in complain(capsys, config)


@pytest.mark.parametrize(
    "words, expected",
    [
        (("SOLVER.IMS_PER_BATCH", "0"), "SOLVER.IMS_PER_BATCH"),
        (("SERIATIM.SOLVER.OPTIMIZER", "Lion"), "AdamW"),
        (("SERIATIM.SOLVER.PRECISION", "float16"), "CUDA"),
        (("SERIATIM.SOLVER.EMA_DECAY", "1.5"), "EMA_DECAY"),
        (("MODEL.META_ARCHITECTURE", "RetinaNett"), "RetinaNet"),
        (("MODEL.WEIGHTS", "nowhere.pth"), "nowhere.pth"),
        (("DATASETS.TRAIN", "('other',)"), "other"),
        (("--num-gpus", "4"), "--num-processes"),
        (("--eval-only",), "MODEL.WEIGHTS"),
    ],
)
def test_contradictions_in_the_config(tmp_path, capsys, words, expected):
    if expected == "--num-processes" and torch.cuda.is_available():
        pytest.skip("there are GPUs")
    assert expected in complain(capsys, write_config(tmp_path), *words)


def test_a_diverging_loss_names_the_images(tmp_path, capsys):
    config = write_config(tmp_path, SOLVER__BASE_LR=1e30, SOLVER__WARMUP_ITERS=0)
    message = complain(capsys, config)
    assert "not finite" in message and "images/" in message


def test_weights_that_leave_parts_of_the_model_random_are_not_evaluated(tmp_path, capsys):
    config = write_config(tmp_path, SOLVER__MAX_ITER=1, TEST__EVAL_PERIOD=0)
    assert run(lambda: start(arguments(config))) == 0
    capsys.readouterr()
    message = complain(capsys, config, "--eval-only", "MODEL.FPN.OUT_CHANNELS", "8")
    assert "cannot be evaluated" in message and "fpn" in message
