"""From an image file to Instances: Detectron2's DefaultPredictor, ours, and exported models.

    python benchmarks/inference.py --weights output/bccd/model_final.pth
    python benchmarks/inference.py --weights FILE --ap      # COCO AP of each on DATASETS.TEST too

All have the same weights and take turns on the same files; each turn is measured in processor
seconds of this process, so that other programs matter little. "model" is the network alone, eager
or by its runtime, on the same pixels; "file" is all from the name of a file to Instances. Without
--weights the network is a fresh one, which says nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from _machine import describe_machine
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import inference_on_dataset

from dataset_tools import errors
from seriatim.data.loader import build_test_loader
from seriatim.engine.setup import setup
from seriatim.evaluation import build_evaluator
from seriatim.export import ExportedPredictor
from seriatim.export.graph import graph_of
from seriatim.export.predictor import batch_of
from seriatim.export.write import export
from seriatim.predictor import Predictor

FORMATS = ("onnx", "openvino", "torchscript")
WANTED_MODEL, WANTED_FILE = 1.5, 2.0  # times eager's and DefaultPredictor's speed


def main() -> int:
    args = parse()
    print(f"{describe_machine()}, {torch.get_num_threads()} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cfg = config(args, Path(folder))
        ours = Predictor(cfg)
        exported = {}
        for format in FORMATS:
            export(cfg, ours.model, Path(folder) / format, format)
            exported[format] = ExportedPredictor(Path(folder) / format)
        test = cfg.DATASETS.TEST[0]
        files = [record["file_name"] for record in DatasetCatalog.get(test)][: args.images]
        good = models(ours, exported, files)
        good &= whole(cfg, ours, exported, files)
        if args.ap:
            scores(cfg, ours, exported)
    return 0 if good else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="configs/BCCD-TaskAligned.yaml", metavar="FILE")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--ap", action="store_true")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    return parser.parse_args()


def config(args: argparse.Namespace, folder: Path) -> Any:
    weights = args.weights
    if weights is None:
        from detectron2.modeling import build_model

        cfg = setup(SimpleNamespace(config_file=args.config_file, opts=args.opts, resume=False))
        weights = folder / "fresh.pth"
        torch.save({"model": build_model(cfg).state_dict()}, weights)
    opts = [*args.opts, "MODEL.WEIGHTS", str(weights)]
    return setup(SimpleNamespace(config_file=args.config_file, opts=opts, resume=False))


def models(ours: Predictor, exported: dict[str, ExportedPredictor], files: list[str]) -> bool:
    """Compare the networks alone."""
    description = exported["onnx"].model.description
    seen: list[np.ndarray] = []
    watcher = Predictor.__new__(Predictor)
    watcher.__dict__.update(ours.__dict__)
    watcher.model = lambda given: seen.append(given[0]["image"].numpy()) or [{}]
    for file in files:
        watcher.predict_file(file)
    batches = [batch_of([image], description) for image in seen]
    graph = graph_of(ours.model)

    def eager(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return graph(torch.from_numpy(images))

    ways = {"eager": eager} | {name: one.model.run for name, one in exported.items()}
    speeds = compare("model", ways, batches, "eager")
    return all(speeds[name] >= WANTED_MODEL for name in ("onnx", "openvino"))


def whole(
    cfg: Any, ours: Predictor, exported: dict[str, ExportedPredictor], files: list[str]
) -> bool:
    """Compare all from a file's name to Instances."""
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = DefaultPredictor(cfg)
    ways = {
        "DefaultPredictor": lambda file: theirs(cv2.imread(file)),
        "Predictor": ours.predict_file,
        **{name: one.predict_file for name, one in exported.items()},
    }
    speeds = compare("file", ways, files, "DefaultPredictor")
    return speeds["openvino"] >= WANTED_FILE and speeds["onnx"] >= WANTED_FILE


def compare(
    what: str, ways: dict[str, Callable], inputs: list[Any], reference: str
) -> dict[str, float]:
    """Print the milliseconds of each and its speed by that of `reference`, which is returned."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(inputs[0])  # allocations and the choice of kernels
        way(inputs[-1])
    for given in inputs:
        for name, way in ways.items():
            start = time.process_time()
            way(given)
            seconds[name].append(time.process_time() - start)
    speeds = {}
    for name in ways:
        pairs = zip(seconds[reference], seconds[name], strict=True)
        speeds[name] = statistics.median(a / b for a, b in pairs)
        middle = 1000 * statistics.median(seconds[name])
        print(f"{what}: {name:<17} {middle:6.1f} ms, {speeds[name]:4.2f} × {reference}", flush=True)
    return speeds


def scores(cfg: Any, ours: Predictor, exported: dict[str, ExportedPredictor]) -> None:
    """Print the AP of each on the test set."""
    name = cfg.DATASETS.TEST[0]
    ways = {"eager": ours.model} | {key: Module(one.model) for key, one in exported.items()}
    for key, model in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            evaluator = build_evaluator(cfg, name, folder)
            results = inference_on_dataset(model, build_test_loader(cfg, name), evaluator)
        print(
            f"AP: {key:<12} " + ", ".join(f"{k} {results['bbox'][k]:.3f}" for k in ("AP", "AP50"))
        )


class Module(torch.nn.Module):
    """What Detectron2's loop over a dataset takes."""

    def __init__(self, model: Callable) -> None:
        super().__init__()
        self.forward = model.__call__


if __name__ == "__main__":
    sys.exit(errors.run(main))
