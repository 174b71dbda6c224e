"""The command line of a federation whose parties are processes or hosts of their own."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from dataset_tools.errors import InputError
from kd3a.certificates import keep_certificates
from kd3a.command import summary
from kd3a.config import rounds
from kd3a.demo import run_demo
from kd3a.federation import CHECKPOINT
from kd3a.hosts import SuperLink, check_finished, ended_with, environment, stay, supernode
from kd3a.live import watch
from kd3a.warm import WarmProcess, ending_with_us
from seriatim.config import load_config

EPILOG = """\
A coordinator and its parties, each on a host of its own:
  federate.py coordinator --config-file coordinator.yaml --host coordinator.example --port 9443
  federate.py party --name mnist --config-file party.yaml --superlink coordinator.example:9443 \\
      --root-certificates ca.crt
All on this machine, with data made for the purpose:
  federate.py demo
"""


def main() -> int:
    """Run what is asked for."""
    signal.signal(signal.SIGTERM, _interrupt)
    args = _parse()
    return args.do(args)


def _coordinator(args: argparse.Namespace) -> int:
    cfg = load_config(args.config_file)
    folder = Path(cfg.OUTPUT_DIR)
    if (folder / CHECKPOINT).exists() and not args.resume:
        raise InputError(
            f"{folder} holds a federation. Go on with it by --resume, or give another OUTPUT_DIR."
        )
    certificates = keep_certificates(
        folder / "certificates", [*dict.fromkeys([args.host, "localhost", "127.0.0.1"])]
    )
    print(f"parties trust {certificates.authority}", flush=True)
    with ended_with() as hosts:
        superlink = SuperLink(folder / "coordinator", certificates, args.host, args.port)
        hosts.append(superlink)
        superlink.wait()
        print(f"parties come to {superlink.address}", flush=True)
        run = superlink.run(args.config_file)
        hosts.append(run)
        watch([run], run)
    check_finished(folder, rounds(cfg), run)
    print(summary(folder))
    return 0


def _party(args: argparse.Namespace) -> int:
    for file in (args.config_file, args.root_certificates):
        if not file.is_file():
            raise InputError(f"There is no file {file}.")
    return stay(lambda: _live(args))


def _live(args: argparse.Namespace) -> int:
    """A party's SuperNode and the process from which those of its messages are forked, until the
    SuperNode ends; its code."""
    home = Path(os.environ.get("FLWR_HOME", Path.home() / ".flwr"))
    warm = WarmProcess(["kd3a.deploy"], environment(home))
    command = supernode(args.name, args.config_file, args.root_certificates, args.superlink)
    node = subprocess.Popen(ending_with_us(command), env=environment(home, warm.folder))
    try:
        return node.wait()
    finally:
        node.terminate()
        warm.stop()


def _demo(args: argparse.Namespace) -> int:
    return run_demo(args.output, args.digits)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=Path(sys.argv[0]).name,
        description="A federation of processes or hosts that speak over TLS.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="coordinator | party | demo")
    add = commands.add_parser("coordinator", help="wait for the parties and run the rounds")
    add.set_defaults(do=_coordinator)
    add.add_argument("--config-file", type=Path, required=True, metavar="FILE")
    add.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    add.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    add.add_argument("--resume", action="store_true", help="go on where OUTPUT_DIR was left")
    add = commands.add_parser("party", help="hold data, and train when the coordinator asks")
    add.set_defaults(do=_party)
    add.add_argument("--name", required=True, help="one of KD3A.PARTIES")
    add.add_argument("--config-file", type=Path, required=True, metavar="FILE")
    add.add_argument("--superlink", required=True, metavar="HOST:PORT", help="of the coordinator")
    add.add_argument("--root-certificates", type=Path, required=True, metavar="FILE")
    add = commands.add_parser("demo", help="four parties and a coordinator on this machine")
    add.set_defaults(do=_demo)
    add.add_argument("--output", type=Path, default=Path("demo/federated"), metavar="FOLDER")
    add.add_argument("--digits", type=Path, metavar="FOLDER", help="mnist.npz, usps.npz, …")
    return parser.parse_args()
