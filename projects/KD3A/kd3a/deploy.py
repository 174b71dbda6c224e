"""The apps of a federation whose parties are processes or hosts of their own.

`flwr run projects/KD3A` sends this package to a SuperLink, which runs `server_app`, and to its
SuperNodes, which run `client_app`. Each reads a config of its own place: the coordinator's has no
data, a party's has its own only.
"""

from __future__ import annotations

import argparse
import os
from functools import partial

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid, ServerApp

from kd3a.app import coordinate, open_party, own_datasets
from kd3a.client_app import build_client_app
from kd3a.live import tell, tell_answer
from kd3a.party import TrainerParty
from kd3a.privacy import privacy_mods
from seriatim.config import load_config
from seriatim.engine.setup import setup
from seriatim.hardware import choose_device

server_app = ServerApp()


@server_app.main()
def _coordinate(grid: Grid, context: Context) -> None:
    tell()
    cfg = load_config(os.path.expanduser(str(context.run_config["config"])))
    cfg.MODEL.DEVICE = str(choose_device(cfg.MODEL.DEVICE))
    coordinate(cfg, grid)


def _find_party(context: Context) -> TrainerParty:
    tell()
    torch.set_num_threads(int(context.node_config.get("threads", 1)))
    name = str(context.node_config["party"])
    cfg = setup(argparse.Namespace(config_file=_config_of(context), opts=own_datasets(name)))
    return open_party(cfg, name)


def _protect(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Differential privacy and secure aggregation, as the party's own config has them."""
    for mod in reversed(privacy_mods(load_config(_config_of(context)))):
        call_next = partial(mod, call_next=call_next)
    return call_next(message, context)


def _config_of(context: Context) -> str:
    return os.path.expanduser(str(context.node_config["config"]))


client_app = build_client_app(_find_party, [_protect, tell_answer])
