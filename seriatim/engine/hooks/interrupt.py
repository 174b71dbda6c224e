"""Ctrl-C that loses nothing."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class Interrupt(HookBase):
    """On SIGINT or SIGTERM: finish the step, save a checkpoint, say how to go on, and stop.

    It stops by a KeyboardInterrupt. A second SIGINT stops at once. With several processes all stop
    after the same step. It belongs behind the Checkpoint hook and before evaluation, which may take
    long.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[int, object] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._ask)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self._asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        if comm.is_main_process():
            # Not the logger: it may hold its lock at this very moment.
            print("\nstopping after this step (Ctrl-C once more: at once)", flush=True)

    def after_step(self) -> None:
        if not self._anyone_asked():
            return
        if self.trainer.last_saved != self.trainer.iter:
            self.trainer.save_checkpoint()
        logger.warning(
            f"Stopped after step {self.trainer.iter + 1} of {self.trainer.max_iter}; a checkpoint"
            f" is in {self.trainer.cfg.OUTPUT_DIR}. To go on, give the same command with --resume."
        )
        raise KeyboardInterrupt

    def _anyone_asked(self) -> bool:
        """Processes may get the signal in different steps: they agree on one."""
        if comm.get_world_size() == 1:
            return self._asked
        device = next(self.trainer.model.parameters()).device
        asked = torch.tensor(int(self._asked), device=device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked)

    def after_train(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
