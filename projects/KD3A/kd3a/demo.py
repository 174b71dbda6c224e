"""Four parties and a coordinator on this machine, each a process, over TLS (`make federated-demo`).

Every party has a folder with its own digits and a config that names no other; the coordinator has
none. Afterwards the same federation is simulated in one process, which must give the same weights.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from dataset_tools.files import write_text
from kd3a.app import all_datasets, open_party, own_datasets, simulate_here
from kd3a.certificates import make_certificates
from kd3a.command import summary
from kd3a.config import rounds
from kd3a.domains import Digits, drawn_domains, folder_domains, save_digits
from kd3a.federation import CHECKPOINT
from kd3a.hosts import PROJECT, Party, SuperLink, check_finished, ended_with
from kd3a.live import watch
from kd3a.picture import COLUMNS, Readings, draw_federation
from seriatim.config import load_config
from seriatim.data.loader import build_test_loader
from seriatim.engine.setup import setup

MOST_IMAGES = 1500  # of each domain of a folder
SECONDS = 900.0  # that the federation has for all its rounds


def run_demo(folder: Path, digits: Path | None) -> int:
    """Make the domains, run the federation, compare it with its simulation, draw what it learnt."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    domains = folder_domains(digits, MOST_IMAGES) if digits else drawn_domains()
    configs = write_places(folder, domains, target=list(domains)[-1])
    federate(folder, configs)
    coordinator = configs.pop("coordinator").parent
    print(f"\n{summary(coordinator)}")
    distance = far_from_simulation(folder, configs, target=list(domains)[-1])
    print(f"largest difference of a weight from the simulation's: {distance:g}")
    picture = folder / "federation.png"
    draw_federation(coordinator, read_tests(coordinator, configs), picture)
    print(f"picture: {picture}\n{time.monotonic() - started:.0f} s")
    return 0


def write_places(folder: Path, domains: dict[str, Digits], target: str) -> dict[str, Path]:
    """A folder for each party, with its data and its config, and one for the coordinator.

    Returns:
        the configs, by party; the coordinator's is called "coordinator".
    """
    configs = {}
    for name, digits in domains.items():
        place = folder / "parties" / name
        save_digits(place / "digits.npz", digits)
        configs[name] = _write_config(place, list(domains), target, {name: place})
    configs["coordinator"] = _write_config(folder / "coordinator", list(domains), target, {})
    return configs


def _write_config(place: Path, parties: list[str], target: str, own: dict[str, Path]) -> Path:
    """A config with OUTPUT_DIR `place`, and the data in the folders of `own`."""
    entries = [
        {
            "NAME": f"{name}_{split}",
            "LABELS": str((data / "digits.npz").absolute()),
            "SPLIT": split,
            "FRACTIONS": {"train": 0.7, "test": 0.3},
        }
        for name, data in own.items()
        for split in ("train", "test")
    ]
    content = {
        "_BASE_": str(PROJECT / "configs" / "Demo.yaml"),
        "SERIATIM": {"DATASETS": entries},
        "KD3A": {"PARTIES": parties, "TARGET": target},
        "OUTPUT_DIR": str(place.absolute()),
    }
    path = place / "config.yaml"
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    return path


def federate(folder: Path, configs: dict[str, Path]) -> None:
    """Run the federation of these configs, each party and the coordinator in processes of its own.

    Raises:
        InputError: it ended before its last round.
    """
    certificates = make_certificates(folder / "certificates", ["localhost", "127.0.0.1"])
    with ended_with() as hosts:
        superlink = SuperLink(folder / "coordinator", certificates)
        hosts.append(superlink)
        for name, path in configs.items():
            if name != "coordinator":
                hosts.append(
                    Party(path.parent, name, path, certificates.authority, superlink.address)
                )
        superlink.wait()
        run = superlink.run(configs["coordinator"])
        hosts.append(run)
        watch([run, *hosts[1:-1]], run, SECONDS)
    check_finished(folder / "coordinator", rounds(load_config(configs["coordinator"])), run)


def read_tests(coordinator: Path, configs: dict[str, Path]) -> dict[str, Readings]:
    """By party, what the last model makes of some of its test images."""
    state = torch.load(coordinator / CHECKPOINT, weights_only=True)
    found = {}
    for name, path in configs.items():
        cfg = setup(argparse.Namespace(config_file=path, opts=own_datasets(name)))
        model = open_party(cfg, name).model_of(state["weights"], state["round"] + 1).eval()
        batches = build_test_loader(cfg, f"{name}_test")
        items = [item for batch in batches for item in batch][:COLUMNS]
        with torch.no_grad():
            read = [int(output["classes"][0]) for output in model(items)]
        images = np.stack([item["image"].permute(1, 2, 0).numpy() for item in items])
        found[name] = Readings(images, np.array([item["label"] for item in items]), np.array(read))
    return found


def far_from_simulation(folder: Path, configs: dict[str, Path], target: str) -> float:
    """The largest difference between the weights of this federation and those of its simulation
    with the same seeds, in one process. On one machine it is 0."""
    place = folder / "simulation"
    data = {name: path.parent for name, path in configs.items()}
    path = _write_config(place, list(configs), target, data)
    cfg = setup(argparse.Namespace(config_file=path, opts=all_datasets(list(configs))))
    simulated = simulate_here(cfg).arrays.to_torch_state_dict()
    reached = torch.load(folder / "coordinator" / CHECKPOINT, weights_only=True)["weights"]
    return max(
        (reached[name].double() - value.double()).abs().max().item()
        for name, value in simulated.items()
    )
