"""Evaluation of classifiers: accuracy, per class, confusion, calibration, likelihood."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from dataset_tools.errors import InputError
from dataset_tools.files import write_json
from seriatim.data.classification.dataset import UNLABELLED
from seriatim.evaluation.classification_scores import (
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    top_k,
)

logger = logging.getLogger(__name__)

RESULTS_FILE = "classification.json"
CONFUSION_FILE = "confusion.png"
ERRORS_FILE = "errors.png"
WORST = 32  # errors that are drawn


class ClassificationEvaluator(DatasetEvaluator):
    """Metrics of a model whose outputs have `scores` ((C,) probabilities) or, better, `logits`.

    The result is `{"classification": {"top1", "top5", "balanced", "nll", "ece", "top1-CLASS" …}}`:
    shares in percent, nll (mean negative log likelihood) in nats, balanced the mean over classes of
    their accuracy, which "top1-CLASS" gives; NaN for a class without images. top5 is left out where
    there are no more than five classes. Images without a label do not count.

    The true classes are those of the dataset, not of the inputs. Written to `output_dir`:
    classification.json (the metrics, the confusion matrix, and for each image the class that was
    chosen, its probability and that of the true class), confusion.png, errors.png (the worst ones).

    Args:
        dataset_name: registered, with records that have `image_id` and `label`.
        bins: of the calibration error.
        distributed: gather what all processes saw; the first one evaluates.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        bins: int = 15,
        distributed: bool = True,
    ) -> None:
        self._name = dataset_name
        self._output_dir = Path(output_dir) if output_dir else None
        self._bins = bins
        self._distributed = distributed
        self._classes = list(MetadataCatalog.get(dataset_name).thing_classes)
        self.reset()

    def reset(self) -> None:
        self._ids: list[int] = []
        self._log_probabilities: list[np.ndarray] = []

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            self._ids.append(given["image_id"])
            self._log_probabilities.append(log_probabilities(output))

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        found = self._gathered()
        if not comm.is_main_process() and self._distributed:
            return OrderedDict()
        ids, labels, logs = self._with_labels(found)
        scores = np.exp(logs)
        predicted = logs.argmax(1)
        matrix = confusion_matrix(labels, predicted, len(self._classes))
        losses = negative_log_likelihood(logs, labels)
        metrics = self._metrics(scores, labels, predicted, losses, matrix)
        if self._output_dir is not None:
            self._write(ids, labels, predicted, scores, matrix, metrics)
            self._draw(ids, labels, predicted, scores, losses, matrix)
        logger.info(f"{self._name}: {report(metrics, matrix, self._classes)}")
        return OrderedDict(classification=metrics)

    def _gathered(self) -> dict[int, np.ndarray]:
        """Image id → (C,) log probabilities, over all processes."""
        mine = dict(zip(self._ids, self._log_probabilities, strict=True))
        if not self._distributed:
            return mine
        comm.synchronize()
        together: dict[int, np.ndarray] = {}
        for part in comm.gather(mine, dst=0) or [mine]:
            together.update(part)
        return together

    def _with_labels(
        self, found: Mapping[int, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids (N,), true classes (N,) and log probabilities (N, C) float64 of what has a label."""
        labels = labels_by_id(DatasetCatalog.get(self._name))
        ids = sorted(i for i in found if labels.get(i, UNLABELLED) != UNLABELLED)
        if not ids:
            raise InputError(f"{self._name}: no image that was predicted has a label.")
        logs = np.array([found[i] for i in ids])
        if logs.shape[1] != len(self._classes):
            raise InputError(
                f"The model gives {logs.shape[1]} scores, but {self._name} has"
                f" {len(self._classes)} classes."
            )
        bad = np.isnan(logs).any(1)
        if bad.any():
            logger.warning(f"{bad.sum()} images have scores that are NaN: they count as wrong")
            logs[bad] = -np.inf
        return np.array(ids), np.array([labels[i] for i in ids], np.int64), logs

    def _metrics(
        self,
        scores: np.ndarray,
        labels: np.ndarray,
        predicted: np.ndarray,
        losses: np.ndarray,
        matrix: np.ndarray,
    ) -> dict[str, float]:
        correct = top_k(scores, labels, 1)
        with np.errstate(invalid="ignore"):
            per_class = 100 * matrix.diagonal() / matrix.sum(1)
        metrics = {"top1": 100 * correct.mean()}
        if len(self._classes) > 5:
            metrics["top5"] = 100 * top_k(scores, labels, 5).mean()
        confidences = scores[np.arange(len(labels)), predicted]
        metrics["balanced"] = np.nanmean(per_class)
        metrics["nll"] = losses.mean()
        metrics["ece"] = 100 * expected_calibration_error(confidences, correct, self._bins)
        for name, value in zip(self._classes, per_class, strict=True):
            metrics[f"top1-{name}"] = value
        return {name: float(value) for name, value in metrics.items()}

    def _write(
        self,
        ids: np.ndarray,
        labels: np.ndarray,
        predicted: np.ndarray,
        scores: np.ndarray,
        matrix: np.ndarray,
        metrics: Mapping[str, float],
    ) -> None:
        rows = np.arange(len(labels))
        columns = (
            ids.tolist(),
            labels.tolist(),
            predicted.tolist(),
            scores[rows, predicted].round(6).tolist(),
            scores[rows, labels].round(6).tolist(),
        )
        keys = ("image_id", "label", "predicted", "confidence", "probability")
        content = {
            "dataset": self._name,
            "classes": self._classes,
            "metrics": {name: _or_none(value) for name, value in metrics.items()},
            "confusion": matrix.tolist(),
            "images": [
                {key: _or_none(value) for key, value in zip(keys, row, strict=True)}
                for row in zip(*columns, strict=True)
            ],
        }
        write_json(self._output_dir / RESULTS_FILE, content)

    def _draw(
        self,
        ids: np.ndarray,
        labels: np.ndarray,
        predicted: np.ndarray,
        scores: np.ndarray,
        losses: np.ndarray,
        matrix: np.ndarray,
    ) -> None:
        """confusion.png and errors.png, and both in TensorBoard while training."""
        from seriatim.visualization.classification import confusion_picture, label_grid
        from seriatim.visualization.sheet import write_image

        pictures = {CONFUSION_FILE: confusion_picture(matrix, self._classes)}
        wrong = np.flatnonzero(labels != predicted)
        worst = wrong[np.argsort(-losses[wrong], kind="stable")][:WORST]
        if len(worst):
            records = records_by_id(DatasetCatalog.get(self._name), ids[worst].tolist())
            names = self._classes
            texts = [
                (names[labels[i]], f"→ {names[k]} {100 * scores[i, k]:.0f}%")
                for i, k in zip(worst, predicted[worst], strict=True)
            ]
            pictures[ERRORS_FILE] = label_grid(records, texts)
        for name, picture in pictures.items():
            write_image(self._output_dir / name, picture)
            put_picture(f"{self._name}/{Path(name).stem}", picture)


def log_probabilities(output: Mapping[str, Any]) -> np.ndarray:
    """(C,) float64, from `logits`, in which small probabilities are not lost, else `scores`."""
    if "logits" in output:
        return torch.log_softmax(output["logits"].detach().double().cpu(), -1).numpy()
    scores = output["scores"].detach().double().cpu()
    return torch.log(scores.clamp_min(torch.finfo(torch.float32).tiny)).numpy()


def labels_by_id(records: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """image_id → label."""
    if hasattr(records, "labels"):
        return dict(zip(records.ids.tolist(), records.labels.tolist(), strict=True))
    return {record["image_id"]: record["label"] for record in records}


def records_by_id(
    records: Sequence[Mapping[str, Any]], ids: Sequence[int]
) -> list[Mapping[str, Any]]:
    """The records with these ids, in this order."""
    own = records.ids.tolist() if hasattr(records, "ids") else [r["image_id"] for r in records]
    place = {image_id: i for i, image_id in enumerate(own)}
    return [records[place[image_id]] for image_id in ids]


def put_picture(name: str, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB into TensorBoard, if there is a training going on."""
    from detectron2.utils.events import get_event_storage

    try:
        storage = get_event_storage()
    except AssertionError:  # Detectron2 0.6 has no other way to ask
        return
    storage.put_image(name, np.ascontiguousarray(picture.transpose(2, 0, 1)))


def report(metrics: Mapping[str, float], matrix: np.ndarray, classes: Sequence[str]) -> str:
    """The figures, and for each class its images, its accuracy and what it is taken for."""
    overall = ", ".join(f"{k} {v:.2f}" for k, v in metrics.items() if not k.startswith("top1-"))
    rows = []
    for number, name in enumerate(classes):
        others = matrix[number].copy()
        others[number] = 0
        taken = f"{classes[others.argmax()]} ({others.max()})" if others.any() else "–"
        total = matrix[number].sum()
        rows.append((name, total, f"{metrics[f'top1-{name}']:.1f}" if total else "–", taken))
    headers = ("class", "images", "top1", "most often taken for")
    table = tabulate(rows, headers, colalign=("left", "right", "right", "left"))
    return f"{overall}\n{table}"


def _or_none(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
