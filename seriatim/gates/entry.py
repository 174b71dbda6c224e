"""The gates as train_net.py and `python -m seriatim.gates` call them."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode

from seriatim.gates.runner import choose, require, run
from seriatim.gates.terminal import GateList


def pass_gates(
    cfg: CfgNode,
    names: str,
    *,
    trainer_class: type | None = None,
    processes: int = 1,
    fresh: bool = False,
) -> None:
    """Ask the gates of `names` with their list on the terminal.

    Raises:
        GateFailed: one of them failed.
        InputError: there is no gate of a name.
    """
    chosen = choose(names)
    if not chosen:
        return
    with GateList(chosen) as listener:
        verdicts = run(
            cfg,
            chosen,
            trainer_class=trainer_class,
            processes=processes,
            fresh=fresh,
            listener=listener,
        )
    require(verdicts, Path(cfg.OUTPUT_DIR) / "gates")
