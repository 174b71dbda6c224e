"""Parties and coordinator of a config: in a simulation, or each in a place of its own."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, Krum, Result

from dataset_tools.errors import InputError
from kd3a.client_app import build_client_app
from kd3a.config import STRATEGIES, rounds
from kd3a.federation import Federation, Settings, run_rounds
from kd3a.local import InProcessGrid, server_identity
from kd3a.messages import SOURCE, TARGET
from kd3a.party import PartyTrainer, TrainerParty
from kd3a.privacy import MODES, privacy_mods, with_privacy
from kd3a.secure import SecureFedAvg
from kd3a.strategies import KD3A, FedProx, Robust
from seriatim.data.catalog import register_datasets
from seriatim.engine.state import seed_everything
from seriatim.engine.trainer import Trainer

# Neither Flower nor Ray tells anyone that they are used.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Bytes. Ray would take a third of the memory; messages wait here, a few models at a time.
OBJECT_STORE = 512 * 2**20


def party_config(cfg: CfgNode, name: str) -> CfgNode:
    """The part of a federation's config that the party `name` has to know."""
    own = cfg.clone()
    own.defrost()
    own.DATASETS.TRAIN, own.DATASETS.TEST = (f"{name}_train",), (f"{name}_test",)
    wanted = {*own.DATASETS.TRAIN, *own.DATASETS.TEST}
    own.SERIATIM.DATASETS = [d for d in cfg.SERIATIM.DATASETS if d.get("NAME") in wanted]
    missing = wanted - {d["NAME"] for d in own.SERIATIM.DATASETS}
    if missing:
        raise InputError(
            f"The party {name} needs the datasets {' and '.join(sorted(missing))}: describe them in"
            " SERIATIM.DATASETS."
        )
    own.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "parties" / name)
    # Parties that draw alike would not be independent.
    own.SEED = (max(0, cfg.SEED) * 1_000_003 + zlib.crc32(name.encode())) % 2**31
    return own


def own_datasets(name: str) -> list[str]:
    """Overrides of a config of the party `name` alone."""
    return all_datasets([name])


def all_datasets(names: Sequence[str]) -> list[str]:
    """Overrides of a config of the parties `names`: what they train and are tested on."""
    train, test = (str(tuple(f"{n}_{kind}" for n in names)) for kind in ("train", "test"))
    return ["DATASETS.TRAIN", train, "DATASETS.TEST", test]


def open_party(cfg: CfgNode, name: str, trainer: type[Trainer] = PartyTrainer) -> TrainerParty:
    """The party `name` of a federation's config (or of one that has just this party's data)."""
    own = party_config(cfg, name)
    Path(own.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    register_datasets(own)
    role = TARGET if name == cfg.KD3A.TARGET else SOURCE
    return TrainerParty(name, role, own, trainer)


def build_strategy(cfg: CfgNode) -> Federation:
    """The strategy that KD3A.STRATEGY names. InputError: it names none, or parties are missing."""
    keys = cfg.KD3A
    check_config(cfg)
    settings = Settings(
        list(keys.PARTIES),
        Path(cfg.OUTPUT_DIR),
        keys.DEADLINE,
        keys.FEWEST_SOURCES,
        keys.EVALUATE_EVERY,
    )
    match keys.STRATEGY:
        case "kd3a":
            return KD3A(settings, tuple(keys.GATE), rounds(cfg), by_size=keys.VARIANT == "paper")
        case "fedavg" if keys.SECURE_AGGREGATION:
            return SecureFedAvg(settings, keys.SECURE_RANGE)
        case "fedavg":
            return Federation(settings)
        case "fedprox":
            return FedProx(settings, keys.PROXIMAL_MU)
        case "krum":
            return Robust(settings, Krum(num_malicious_nodes=keys.BAD_PARTIES))
        case "bulyan":
            return Robust(settings, Bulyan(num_malicious_nodes=keys.BAD_PARTIES))
        case "trimmed":
            sources = len([name for name in keys.PARTIES if name != keys.TARGET])
            return Robust(settings, FedTrimmedAvg(beta=keys.BAD_PARTIES / sources))
    return Robust(settings, FedMedian())


def check_config(cfg: CfgNode) -> None:
    """InputError: a key of the group KD3A makes no sense."""
    keys = cfg.KD3A
    if keys.STRATEGY not in STRATEGIES:
        raise InputError(f"KD3A.STRATEGY is {keys.STRATEGY!r}; there are {', '.join(STRATEGIES)}.")
    if keys.VARIANT not in ("code", "paper"):
        raise InputError(f"KD3A.VARIANT is {keys.VARIANT!r}; there are code and paper.")
    if keys.PRIVACY not in MODES:
        raise InputError(f"KD3A.PRIVACY is {keys.PRIVACY!r}; there are local and central.")
    if keys.PRIVACY and not min(keys.CLIPPING_NORM, keys.EPSILON, keys.DELTA) > 0:
        raise InputError("KD3A.CLIPPING_NORM, EPSILON and DELTA are above 0.")
    if keys.SECURE_AGGREGATION and keys.STRATEGY != "fedavg":
        why = (
            "the target asks each model in clear for its vote"
            if keys.STRATEGY == "kd3a"
            else "it takes fedavg alone, which needs no more than a sum"
        )
        raise InputError(f"KD3A.SECURE_AGGREGATION does not go with {keys.STRATEGY}: {why}.")
    if len(set(keys.PARTIES)) < 2 or len(set(keys.PARTIES)) != len(keys.PARTIES):
        raise InputError("KD3A.PARTIES is a list of at least two different domains.")
    if keys.EVALUATE_EVERY < 1:
        raise InputError("KD3A.EVALUATE_EVERY is a number of rounds, 1 or more.")
    if keys.ATTACK_DOMAIN and keys.ATTACK_DOMAIN not in keys.PARTIES:
        raise InputError(f"KD3A.ATTACK_DOMAIN is {keys.ATTACK_DOMAIN!r}, which is no party.")
    if not 0 <= keys.ATTACK_LEVEL <= 1:
        raise InputError("KD3A.ATTACK_LEVEL is a share of a party's images, from 0 to 1.")
    if keys.STRATEGY == "kd3a" and keys.TARGET not in keys.PARTIES:
        raise InputError(
            f"KD3A.TARGET is {keys.TARGET!r}, which is none of KD3A.PARTIES"
            f" {', '.join(keys.PARTIES)}: name the domain without labels."
        )


def initial_weights(cfg: CfgNode) -> ArrayRecord:
    """The model that all parties start from, by cfg.SEED."""
    seed_everything(max(0, cfg.SEED))
    model = Trainer.build_model(cfg)
    return ArrayRecord({name: value.contiguous() for name, value in model.state_dict().items()})


def coordinate(cfg: CfgNode, grid: Grid) -> Result:
    """Run the federation's rounds, from where it was stopped."""
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    strategy = build_strategy(cfg)
    outer = with_privacy(cfg, strategy)
    return run_rounds(outer, strategy, grid, initial_weights(cfg), rounds(cfg))


def simulate_here(cfg: CfgNode, trainer: type[Trainer] = PartyTrainer) -> Result:
    """All parties and the coordinator in this process, one after the other: what `simulate` gives,
    bit for bit, without the engine's processes."""
    torch.set_num_threads(1)  # as the parties of `simulate`
    parties = [open_party(cfg, name, trainer) for name in cfg.KD3A.PARTIES]
    with server_identity():
        return coordinate(cfg, InProcessGrid(parties, privacy_mods(cfg)))


def simulate(cfg: CfgNode, processes: int) -> Result:
    """All parties and the coordinator on this machine, by Flower's simulation engine (Ray).

    Args:
        cfg: the model's number of classes and the like are resolved, as `setup` leaves them.
        processes: parties that work at the same time, one thread each.

    Raises:
        InputError: what the coordinator raised.
    """
    from flwr.simulation import run_simulation  # brings Ray in

    names = list(cfg.KD3A.PARTIES)

    def find_party(context: Context) -> TrainerParty:
        torch.set_num_threads(1)  # the same sums in the same order on any machine
        return open_party(cfg, names[int(context.node_config["partition-id"])])

    outcome: list[Result | BaseException] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            outcome.append(coordinate(cfg, grid))
        except BaseException as error:
            outcome.append(error)

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    run_simulation(
        server,
        build_client_app(find_party, privacy_mods(cfg)),
        num_supernodes=len(names),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
            "init_args": {
                "num_cpus": processes,
                "object_store_memory": OBJECT_STORE,
                "include_dashboard": False,
                "logging_level": "error",
            },
        },
    )
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
