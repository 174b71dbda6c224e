"""Cheap checks that go on while a model trains; each is told once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.engine import HookBase
from detectron2.utils import comm

from dataset_tools.errors import InputError
from dataset_tools.files import write_json
from seriatim.data.image import record_image
from seriatim.engine.dump import BeforeStep
from seriatim.engine.watchers import (
    DeadUnits,
    Gap,
    ImageLosses,
    Noticed,
    Plateau,
    Spikes,
    Starvation,
    Step,
    UpdateRatios,
    Watcher,
)

logger = logging.getLogger(__name__)


class Watch(HookBase):
    """Tells once, in the log and TensorBoard, what looks wrong, and keeps each step reproducible.

    It looks for spikes and a plateau of the loss, dead units, update ratios out of range, a loader
    slower than the model, overfitting, and images that may be labelled wrongly; the classes of
    `seriatim.engine.watchers` say how. What it tells is in OUTPUT_DIR/watch too, as told.json, with
    pictures. A step whose loss or gradient is not finite leaves a dump there, which
    `python -m seriatim.replay` runs again. Process 0 watches; each process can dump.

    It comes behind the Statistics hook, whose numbers it reads, and before the one that saves.

    Args:
        period: steps over which dead units, the loader and spans of the loss are judged.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._watchers: list[Watcher] = []
        self._state: dict[str, Any] = {}
        self._told: list[dict[str, Any]] = []
        self._before: BeforeStep | None = None

    def before_train(self) -> None:
        self._before = BeforeStep(self.trainer)
        if not comm.is_main_process():
            return
        self._watchers = [
            Spikes(),
            Plateau(self._period),
            DeadUnits(self.trainer.bare_model, self._period),
            UpdateRatios(),
            Starvation(self._period),
            Gap(),
            ImageLosses(self._period),
        ]
        for watcher in self._watchers:
            if watcher.name in self._state:
                watcher.load_state_dict(self._state[watcher.name])
        self._told = self._told_before(self.trainer.start_iter)

    def before_step(self) -> None:
        self._before.remember()
        for watcher in self._watchers:
            watcher.before(self.trainer.iter + 1)

    def after_step(self) -> None:
        if not self._watchers:
            return
        step = self._step()
        told = {entry["what"] for entry in self._told}
        for watcher in self._watchers:
            noticed = watcher.look(step)
            if noticed and watcher.name not in told:
                self._tell(watcher.name, noticed, step.number)

    def after_train(self) -> None:
        for watcher in self._watchers:
            watcher.close()

    def dump(self, error: Exception) -> str:
        """Write the present step to OUTPUT_DIR/watch; a sentence that says where, for `error`."""
        dump = self._before.dump(error) if self._before else None
        if dump is None:
            return ""
        rank = comm.get_rank()
        name = f"step_{self.trainer.iter:07d}" + (f"_process{rank}" if rank else "")
        path = self._folder / f"{name}.pth"
        try:
            dump.save(path)
        except InputError as failure:
            return f"No dump of the step: {failure}"
        return (
            f"To run this very step again and see where it began: python -m seriatim.replay {path}"
        )

    @property
    def _folder(self) -> Path:
        return Path(self.trainer.cfg.OUTPUT_DIR) / "watch"

    def _step(self) -> Step:
        trainer = self.trainer
        latest = trainer.storage.latest()
        number = trainer.iter + 1
        return Step(
            number=number,
            last=number >= trainer.max_iter,
            loss=latest["total_loss"][0],
            batches=[(batch, float(loss)) for batch, loss in trainer.train_step.seen],
            latest=latest,
            rate=latest["lr"][0] / trainer.cfg.SOLVER.BASE_LR if "lr" in latest else 1.0,
        )

    # Telling

    def _tell(self, what: str, noticed: Noticed, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        pictures = self._draw(what, noticed)
        place = f" Pictures: {', '.join(map(str, pictures))}." if pictures else ""
        logger.warning(f"watch, {what}, step {steps}: {noticed.text}{place}")
        self._told.append({"what": what, "steps": steps, "text": noticed.text})
        write_json(self._folder / "told.json", self._told)
        # A run of its own in TensorBoard, which reads one growing file per folder.
        with SummaryWriter(str(self._folder)) as writer:
            writer.add_text(f"watch/{what}", noticed.text, steps)
            for path in pictures:
                image = detection_utils.read_image(str(path), "RGB")
                writer.add_image(f"watch/{what}", image, steps, dataformats="HWC")

    def _told_before(self, start: int) -> list[dict[str, Any]]:
        """What this run told up to the step that it is resumed at; another run's is not kept."""
        path = self._folder / "told.json"
        if start == 0 or not path.is_file():
            return []
        told = json.loads(path.read_text(encoding="utf-8"))
        return [entry for entry in told if entry["steps"] <= start]

    def _draw(self, what: str, noticed: Noticed) -> list[Path]:
        """Contact sheets of the images with their labels."""
        from seriatim.visualization.sheet import ContactSheet, Picture

        if not noticed.images:
            return []
        wanted = {name for name, _ in noticed.images}
        records = {
            record["file_name"]: record
            for dataset in self.trainer.cfg.DATASETS.TRAIN
            for record in DatasetCatalog.get(dataset)
            if record["file_name"] in wanted
        }
        sheet = ContactSheet(self._folder / f"{what.replace(' ', '_')}.jpg")
        for name, caption in noticed.images:
            if name in records:
                image = record_image(records[name], "RGB")
                title = f"{Path(name).name}: {caption}{self._class_of(records[name])}"
                sheet.add(Picture(*image.shape[:2], self._labels_of(records[name], image), title))
        return sheet.close()

    def _class_of(self, record: dict[str, Any]) -> str:
        if "label" not in record:
            return ""
        from seriatim.visualization.classification import label_name

        names = MetadataCatalog.get(self.trainer.cfg.DATASETS.TRAIN[0]).thing_classes
        return f", {label_name(record['label'], names)}"

    def _labels_of(self, record: dict[str, Any], image: np.ndarray):
        from seriatim.visualization.draw import draw_ground_truth

        metadata = MetadataCatalog.get(self.trainer.cfg.DATASETS.TRAIN[0])
        labels = record.get("annotations", [])  # of an image as a whole it is in the title
        return lambda scale: draw_ground_truth(image, labels, metadata, scale=scale)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        states = {watcher.name: watcher.state_dict() for watcher in self._watchers}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state
