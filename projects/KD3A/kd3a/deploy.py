"""The apps of a federation whose parties are processes or hosts of their own.

`flwr run projects/KD3A` sends this package to a SuperLink, which runs `server_app`, and to its
SuperNodes, which run `client_app`. Each reads a config of its own place: the coordinator's has no
data, a party's has its own only.
"""

from __future__ import annotations

import argparse
import os

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from kd3a.app import coordinate, open_party
from kd3a.client_app import build_client_app
from kd3a.party import TrainerParty
from seriatim.config import load_config
from seriatim.engine.setup import setup
from seriatim.hardware import choose_device

server_app = ServerApp()


@server_app.main()
def _coordinate(grid: Grid, context: Context) -> None:
    cfg = load_config(os.path.expanduser(str(context.run_config["config"])))
    cfg.MODEL.DEVICE = str(choose_device(cfg.MODEL.DEVICE))
    coordinate(cfg, grid)


def _find_party(context: Context) -> TrainerParty:
    torch.set_num_threads(int(context.node_config.get("threads", 1)))
    name = str(context.node_config["party"])
    config = os.path.expanduser(str(context.node_config["config"]))
    datasets = ["DATASETS.TRAIN", f"('{name}_train',)", "DATASETS.TEST", f"('{name}_test',)"]
    return open_party(setup(argparse.Namespace(config_file=config, opts=datasets)), name)


client_app = build_client_app(_find_party)
