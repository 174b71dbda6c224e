"""Somebody's own project, with a trainer and a mapper of its own."""

import os
import subprocess
import sys

import pytest

from dataset_tools.errors import InputError, run
from seriatim.engine.trainer import Trainer
from seriatim.gates import __main__ as gates_alone
from seriatim.gates.project import import_project, trainer_named

from ..engine.support import ROOT, command, write_classifier_config, write_config

PROJECT = """
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import DefaultTrainer


class MyMapper(DatasetMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["image"] = item["image"].flip(2)
        return item


class MyTrainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=MyMapper(cfg, is_train=True))


class NoTrainer:
    pass
"""


@pytest.fixture
def project(tmp_path):
    path = tmp_path / f"project_{tmp_path.name}.py"
    path.write_text(PROJECT)
    yield path
    sys.modules.pop(path.stem, None)


def test_a_trainer_of_detectron2_is_taken_as_it_is(project):
    trainer = trainer_named(f"{project}:MyTrainer")
    assert issubclass(trainer, Trainer) and trainer.__name__ == "MyTrainer"
    assert trainer_named("seriatim.engine.trainer:Trainer") is Trainer


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MyTrainer", "MODULE:CLASS"),
        ("nowhere.py:MyTrainer", "no file"),
        ("no_such_module:MyTrainer", "cannot be imported"),
        ("{}:Other", "no such class"),
        ("{}:NoTrainer", "no trainer"),
    ],
)
def test_what_is_no_trainer(project, name, message):
    with pytest.raises(InputError, match=message):
        trainer_named(name.format(project))


@pytest.mark.slow
def test_its_mapper_is_tested_without_an_edit(project, tmp_path):
    config = write_config(tmp_path)
    words = [sys.executable, "-m", "seriatim.gates", "--config-file", config]
    words += ["--gates", "inputs", "--trainer", f"{project}:MyTrainer"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "mirrored" in done.stderr and "Traceback" not in done.stderr


def test_a_projects_keys_are_known(tmp_path):
    config = write_classifier_config(tmp_path, MIXUP={"TEACHER_DECAY": 0.9})
    config.write_text(config.read_text().replace("ImageClassifier", "ICTClassifier"))
    words = [sys.executable, "-m", "seriatim.gates", "--config-file", config, "--gates", "oracle"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "MIXUP" in done.stderr
    words += ["--project", "projects/Mixup/train_net.py"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ pass" in done.stdout


def test_a_project_that_another_module_hides(tmp_path):
    (tmp_path / "json.py").write_text("")
    before = list(sys.path)
    with pytest.raises(InputError, match="has the name of"):
        import_project(str(tmp_path / "json.py"))
    assert sys.path == before  # new processes would take that json for Python's
    with pytest.raises(InputError, match="--project: there is no file"):
        import_project("nowhere.py")


def test_processes_that_train_together_are_told_to_the_gates(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr("seriatim.gates.entry.pass_gates", lambda *_, **words: told.update(words))
    config = str(write_config(tmp_path))
    words = ["gates", "--config-file", config, "SOLVER.MAX_ITER", "9", "--num-processes", "2"]
    monkeypatch.setattr("sys.argv", words)
    assert run(gates_alone.main) == 0
    assert told["processes"] == 2


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(config, *words):
    _, *script = command(["--config-file", config, "--gates", "inputs", *words])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*TORCHRUN, *script], cwd=ROOT, capture_output=True, text=True, timeout=400, env=environment
    )


@pytest.mark.slow
def test_under_torchrun_the_first_process_asks_and_the_others_wait(tmp_path):
    done = torchrun(write_config(tmp_path, SOLVER__MAX_ITER=2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("gate inputs") == 1
    assert (tmp_path / "output" / "model_final.pth").exists()


@pytest.mark.slow
def test_under_torchrun_a_failed_gate_ends_all(tmp_path):
    config = write_config(tmp_path, MODEL__PIXEL_MEAN=[0.5] * 3, MODEL__PIXEL_STD=[0.2] * 3)
    done = torchrun(config)
    assert done.returncode != 0
    assert done.stderr.count("Gate inputs (does the network see") == 1
    assert not (tmp_path / "output" / "model_final.pth").exists()
