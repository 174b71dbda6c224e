"""Three small parties in processes of their own, whose coordinator can be run again and again."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from kd3a.certificates import Certificates, make_certificates
from kd3a.federation import CHECKPOINT, HISTORY
from kd3a.hosts import PROJECT, Host, Party, SuperLink, stop

from seriatim.testing.labelled import make_labelled
from tests.projects.KD3A.recorder import Recorder

ROOT = PROJECT.parents[1]
APP = Path(__file__).parent / "spoilt_app"
SECONDS = 500.0  # until a run that hangs fails; the machine may be busy


@dataclass
class Place:
    """A network that stays while several federations run over it."""

    folder: Path
    names: tuple[str, ...]
    certificates: Certificates
    superlink: SuperLink
    recorder: Recorder
    parties: dict[str, Party]

    def start(self, name: str) -> None:
        """Let a party come, or come back."""
        config = self.folder / name / "config.yaml"
        address = f"127.0.0.1:{self.recorder.port}"
        self.parties[name] = Party(
            config.parent, name, config, self.certificates.authority, address
        )

    def tell(self, name: str, faults: dict[int, str]) -> None:
        """What goes wrong with a party, by round."""
        (self.folder / name / "faults.json").write_text(json.dumps(faults))

    def was_asked(self, name: str, number: int) -> bool:
        """Whether a party has been asked to train in a round."""
        return (self.folder / name / f"training-{number}").exists()

    def release(self, name: str) -> None:
        """Let a party go on that was told to wait."""
        (self.folder / name / "go").touch()

    def fresh(self, **keys) -> Path:
        """Configs as for a first round, with these keys of KD3A; the coordinator's OUTPUT_DIR."""
        for name in self.names:
            for path in (self.folder / name).rglob("*"):
                if path.suffix == ".pth" or path.name.startswith(("training-", "last_", "go")):
                    path.unlink()
            self.tell(name, {})
            write_config(self.folder / name, self.names, [name], **keys)
        number = len(list(self.folder.glob("coordinator*")))
        output = self.folder / f"coordinator{number}"
        write_config(output, self.names, [], **keys)
        return output

    @contextmanager
    def run(self, output: Path):
        run = self.superlink.run(output / "config.yaml", f"run-{time.time_ns()}", APP)
        try:
            yield run
        finally:
            stop([run])

    def finish(self, output: Path, rounds: int = 2) -> list[dict]:
        """Run to the end; the lines of its history."""
        with self.run(output) as run:
            return self.finished(output, run, rounds)

    def finished(self, output: Path, run: Host, rounds: int) -> list[dict]:
        """The lines of the history when all are there. Flower's own end comes some seconds
        later."""
        self.wait_for(lambda: len(history(output)) == rounds or not run.alive(), "the end", run)
        assert len(history(output)) == rounds, run.last_words(60)
        return history(output)

    def wait_for(self, condition, what: str, run: Host) -> None:
        """Fails when it takes too long, and at once when a process of the network has ended."""
        end = time.monotonic() + SECONDS
        while not condition():
            for host in (self.superlink, *self.parties.values()):
                assert host.alive(), f"{host.name} has ended:\n{host.last_words(60)}"
            assert time.monotonic() < end, f"waited too long for {what}:\n{run.last_words(60)}"
            time.sleep(0.1)

    def deadline(self) -> float:
        """Seconds in which whoever works has answered, however busy the machine is."""
        whole = [
            line["seconds"]
            for output in self.folder.glob("coordinator*")
            for line in history(output)
            if not line["faults"]
        ]
        if not whole:
            self.finish(self.fresh())
            return self.deadline()
        return round(10 + 3 * min(whole))

    def kill_coordinator(self, run: Host) -> None:
        run.kill()
        self.superlink.kill()

    def start_coordinator(self) -> None:
        """Start it again where parties look for it."""
        self.superlink = SuperLink(
            self.folder / "superlink", self.certificates, port=self.superlink.port
        )
        self.superlink.wait(SECONDS)


def history(output: Path) -> list[dict]:
    path = output / HISTORY
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def weights(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / CHECKPOINT, weights_only=True)["weights"]


@contextmanager
def open_place(folder: Path, names=("a", "b", "c")):
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(PROJECT)])
    os.environ["OMP_NUM_THREADS"] = "1"
    certificates = make_certificates(folder / "certificates", ["localhost", "127.0.0.1"])
    for seed, name in enumerate(names):
        (folder / name).mkdir()
        images, labels = make_labelled(48, size=32, channels=1, seed=seed)
        np.savez(folder / name / "own.npz", images=images, labels=labels)
    superlink = SuperLink(folder / "superlink", certificates)
    place = None
    try:
        recorder = Recorder(certificates, superlink.port)
        place = Place(folder, names, certificates, superlink, recorder, {})
        place.fresh()
        superlink.wait(SECONDS)
        for name in names:
            place.start(name)
        yield place
    finally:
        stop([*place.parties.values(), place.superlink] if place else [superlink])
        if place:
            place.recorder.close()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def write_config(folder: Path, names, own, **keys) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(config(folder, names, own, **keys), sort_keys=False)
    )


def config(folder: Path, names, own, data: Path | None = None, **keys) -> dict:
    entries = [
        {
            "NAME": f"{name}_{split}",
            "LABELS": str((data / name if data else folder) / "own.npz"),
            "SPLIT": split,
            "FRACTIONS": {"train": 0.75, "test": 0.25},
        }
        for name in own
        for split in ("train", "test")
    ]
    return {
        "_BASE_": str(PROJECT / "configs/Base-KD3A.yaml"),
        "MODEL": {
            "DEVICE": "cpu",
            "BACKBONE": {"NAME": "TinyBackbone"},
            "CLASSIFIER": {"NUM_CLASSES": 10},
        },
        "SOLVER": {"IMS_PER_BATCH": 8},
        "SERIATIM": {"DATASETS": entries},
        "OUTPUT_DIR": str(folder),
        "KD3A": {
            "PARTIES": list(names),
            "STRATEGY": "fedavg",
            "EPOCH_IMAGES": 16,
            "EPOCHS": 2,
            "EVALUATE_EVERY": 2,
            "DEADLINE": SECONDS,
            **keys,
        },
    }
