"""What the Watch hook costs: its own time as a share of the steps that it watches.

    python benchmarks/watch.py
    python benchmarks/watch.py --config-file configs/BCCD-TaskAligned.yaml --steps 40

Both parts of the ratio are processor seconds of the same process and the same steps, so that other
programs on the machine do not matter. What its forward hooks do inside of a step is counted as the
hook's. By default the detector for small data is trained on drawn shapes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from _machine import describe_machine

from dataset_tools import errors
from seriatim.engine.setup import setup
from seriatim.engine.trainer import Trainer
from seriatim.engine.watchers import DeadUnits
from seriatim.testing.shapes import make_shapes

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 0.02  # of a step
WARM = 5  # steps that are not measured


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        whole, watching = measure(config(args, Path(folder)), args.steps)
    count, training = args.steps - WARM, whole - watching
    share = watching / training
    print(
        f"{count} steps: {1e3 * training / count:.1f} ms of processor time a step,"
        f" {1e3 * watching / count:.2f} ms of watching: {share:.2%}"
    )
    return 0 if share < LIMIT else 1


def config(args: argparse.Namespace, folder: Path) -> Any:
    """The config to train, for so many steps, without evaluation."""
    options = ["OUTPUT_DIR", str(folder / "output"), "SOLVER.MAX_ITER", str(args.steps)]
    options += ["SERIATIM.HOOKS.PICTURE_PERIOD", "0", "SEED", "0", "DATALOADER.NUM_WORKERS", "0"]
    path = args.config_file
    if path is None:
        labels = make_shapes(folder / "shapes", 40, 0, size=(256, 320))
        path = folder / "shapes.yaml"
        path.write_text(
            f"_BASE_: {ROOT / 'configs' / 'Base-TaskAligned.yaml'}\n"
            f"SERIATIM: {{DATASETS: [{{NAME: shapes, JSON: {labels},"
            f" IMAGES: {labels.parent / 'images'}}}]}}\n"
            "DATASETS: {TRAIN: [shapes]}\n"
            "INPUT: {MIN_SIZE_TRAIN: [256]}\n"
            "MODEL: {TIMM: {WEIGHTS: ''}}\n"
        )
    return setup(SimpleNamespace(config_file=str(path), opts=options, resume=False))


def measure(cfg: Any, steps: int) -> tuple[float, float]:
    """Processor seconds of the steps with all hooks, and of the watching among them."""
    clock = Clock()

    class Timed(Trainer):
        """Its loop is timed, but for what saving takes."""

        def build_hooks(self) -> list[Any]:
            found = [h for h in super().build_hooks() if type(h).__name__ != "Checkpoint"]
            watch = next(h for h in found if type(h).__name__ == "Watch")
            watch.before_step = clock.around(watch.before_step)
            watch.after_step = clock.around(watch.after_step)
            return found

        def before_step(self) -> None:
            if self.iter == WARM:
                clock.start()
                self.follow_hooks()
            super().before_step()

        def after_step(self) -> None:
            super().after_step()
            if self.iter == steps - 1:
                clock.stop()

        def follow_hooks(self) -> None:
            watch = next(h for h in self._hooks if type(h).__name__ == "Watch")
            dead = next(w for w in watch._watchers if isinstance(w, DeadUnits))
            keep = dead._keep
            dead._keep = lambda name: clock.around(keep(name))

    trainer = Timed(cfg)
    trainer.train()
    return clock.whole, clock.part


class Clock:
    """Processor time of a stretch, and of some calls within it."""

    def __init__(self) -> None:
        self.whole = self.part = 0.0
        self._started = 0.0
        self._running = False

    def start(self) -> None:
        self._started, self._running = time.process_time(), True

    def stop(self) -> None:
        self.whole, self._running = time.process_time() - self._started, False

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            before = time.process_time()
            result = call(*args)
            if self._running:
                self.part += time.process_time() - before
            return result

        return timed


if __name__ == "__main__":
    raise SystemExit(errors.run(main))
