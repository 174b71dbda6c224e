"""visualize.py from the command line to the files that it writes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from seriatim.data.catalog import unregister_datasets
from seriatim.testing.shapes import make_shapes
from seriatim.visualization.cli import COMMANDS, main

ROOT = Path(__file__).parents[3]


@META_ARCH_REGISTRY.register()
class AlwaysOneBox(nn.Module):
    """Finds the same box in every image, with a score that is its weight."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.score = nn.Parameter(torch.tensor(0.0))

    def forward(self, inputs):
        return [{"instances": self.look(i["height"], i["width"])} for i in inputs]

    def look(self, height, width):
        box = torch.tensor([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]])
        found = Instances((height, width), pred_boxes=Boxes(box))
        found.scores = self.score.detach()[None]
        found.pred_classes = torch.tensor([1])
        return found


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes"), 6)


@pytest.fixture
def config(shapes, tmp_path):
    weights = tmp_path / "model.pth"
    torch.save({"model": {"score": torch.tensor(0.75)}}, weights)
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
MODEL: {{META_ARCHITECTURE: AlwaysOneBox, WEIGHTS: {weights}}}
SERIATIM:
  DATASETS:
    - {{NAME: shapes, JSON: {shapes}, IMAGES: {shapes.parent / "images"}}}
  AUG: {{ENABLED: True, SIZE: [64, 80]}}
DATASETS: {{TRAIN: [shapes], TEST: [shapes]}}
INPUT: {{FORMAT: RGB}}
OUTPUT_DIR: {tmp_path / "run"}
SEED: 0
"""
    )
    yield str(path)
    unregister_datasets(["shapes"])


def size_of(path):
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help_is_instant_shows_an_example_and_imports_nothing_heavy(arguments):
    code = (
        "import sys; from seriatim.visualization.cli import main\n"
        "try: main([*sys.argv[1:], '--help'])\n"
        "finally: print({'torch', 'cv2', 'numpy', 'detectron2'} & set(sys.modules))"
    )
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert time.perf_counter() - start < 5  # 0.1 s on an idle machine
    assert "example" in result.stdout and result.stdout.strip().endswith("set()")
    assert result.stdout.count("\n") <= 36


def test_an_unknown_command_is_named(capsys):
    assert main(["predicitons"]) == 2
    assert "predictions" in capsys.readouterr().err


def test_data_from_a_json_alone(shapes, tmp_path, capsys):
    output = tmp_path / "out"
    images = str(shapes.parent / "images")
    assert main(["data", "--json", str(shapes), "--images", images, "-o", str(output)]) == 0
    unregister_datasets([shapes.stem])
    assert len(list(output.glob("*.jpg"))) == 6 + 1
    assert size_of(output / "sheet.jpg")[0] == 1800
    assert "6 pictures" in capsys.readouterr().out


def test_data_chooses_images_evenly_and_by_name(config, tmp_path, capsys):
    assert main(["data", "--config-file", config, "-o", str(tmp_path), "--num", "2"]) == 0
    written = sorted(p.stem for p in tmp_path.glob("*.jpg"))
    assert len(written) == 3
    again = tmp_path / "again"
    arguments = ["data", "--config-file", config, "-o", str(again), "--match", f"{written[0]}.*"]
    assert main(arguments) == 0
    assert sorted(p.stem for p in again.glob("*.jpg")) == [written[0], "sheet"]
    assert main([*arguments[:-1], "nothing*"]) == 2
    assert "nothing*" in capsys.readouterr().err


def test_inputs_show_each_image_and_its_draws(config, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["inputs", "--config-file", config, "-o", str(output), "--num", "2", "--draws", "2"]
    assert main([*arguments, "SERIATIM.AUG.MOSAIC", "0.5"]) == 0
    assert len(list(output.glob("*_[012].jpg"))) == 2 * 3
    assert "Channels as the network gets them" in capsys.readouterr().out


def test_predictions_on_a_folder_keep_the_datasets_ids(config, shapes, tmp_path):
    output, folder = tmp_path / "out", str(shapes.parent / "images")
    assert main(["predictions", folder, "--config-file", config, "-o", str(output)]) == 0
    detections = json.loads((output / "detections.json").read_text())
    names = {i["id"]: i["file_name"] for i in json.loads(shapes.read_text())["images"]}
    assert len(detections) == 6
    for detection in detections:
        assert detection["score"] == 0.75 and detection["category"] == "square"
        assert detection["bbox"] == [32, 24, 64, 48]  # of 128 × 96 px
        assert Path(detection["file_name"]).name == Path(names[detection["image_id"]]).name
    assert len(list(output.glob("*.jpg"))) == 7


def test_predictions_by_tiles_and_on_16_bit_images(config, tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.arange(300 * 200, dtype=np.uint16).reshape(200, 300)).save(deep)
    arguments = ["predictions", str(deep), "--config-file", config, "-o", str(tmp_path / "out")]
    assert main([*arguments, "SERIATIM.EVAL.TILE", "100"]) == 0
    detections = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(detections) > 3  # one in the middle of each tile


def test_predictions_on_a_video(config, tmp_path):
    film = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), 10, (160, 120))
    for level in range(6):
        writer.write(np.full((120, 160, 3), 40 * level, np.uint8))
    writer.release()
    output = tmp_path / "out"
    arguments = ["predictions", str(film), "--config-file", config, "-o", str(output)]
    assert main([*arguments, "--num", "4"]) == 0
    capture = cv2.VideoCapture(str(output / "film.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 160
    capture.release()
    assert len(json.loads((output / "detections.json").read_text())) == 4


@pytest.mark.parametrize(
    ("given", "word"),
    [("nowhere/*.png", "nowhere"), ("empty", "image"), ("77", "Camera 77"), ("bad.mp4", "bad.mp4")],
)
def test_predictions_on_nothing_are_refused(config, tmp_path, monkeypatch, capsys, given, word):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    Path("bad.mp4").write_bytes(b"no film")
    assert main(["predictions", given, "--config-file", config]) == 2
    assert word in capsys.readouterr().err


def test_compare_ranks_the_worst_first_and_counts(config, shapes, tmp_path, capsys):
    dataset = json.loads(shapes.read_text())
    results, worst = [], None
    for annotation in dataset["annotations"]:
        if annotation["iscrowd"]:
            continue
        worst = worst or annotation["image_id"]
        if annotation["image_id"] != worst:  # of one image nothing is found
            keep = {k: annotation[k] for k in ("image_id", "category_id", "bbox")}
            results.append({**keep, "score": 0.9})
    results[0]["category_id"] = results[0]["category_id"] % 3 + 1
    results.append({**results[1], "bbox": [0, 0, 3, 3], "score": 0.05})
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    output = tmp_path / "out"
    arguments = ["compare", "--config-file", config, "--results", str(path), "-o", str(output)]
    assert main(arguments) == 0
    first = next(i["file_name"] for i in dataset["images"] if i["id"] == worst)
    assert (output / f"0001_{Path(first).stem}.jpg").is_file()
    printed = capsys.readouterr().out
    objects = sum(not a["iscrowd"] for a in dataset["annotations"])
    missed = sum(a["image_id"] == worst and not a["iscrowd"] for a in dataset["annotations"])
    assert "threshold 0.90" in printed  # the false alarm of 0.05 is below it
    row = next(line for line in printed.splitlines() if line.startswith("all")).split()
    assert [int(v) for v in row[1:]] == [objects - missed - 1, missed, 1, 0]


def test_compare_by_a_model(config, tmp_path, capsys):
    assert (
        main(["compare", "--config-file", config, "-o", str(tmp_path), "--threshold", "0.5"]) == 0
    )
    assert "false alarms" in capsys.readouterr().out
    assert main(["compare"]) == 2


def test_results_of_another_dataset_are_refused(config, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text('[{"image_id": 1, "category_id": 99, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    assert main(["compare", "--config-file", config, "--results", str(path)]) == 2
    assert "entry 0" in capsys.readouterr().err


def test_curves(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"iteration": i, "total_loss": 5 / (i + 1), "lr": 0.1} for i in range(40)]
    lines.append({"iteration": 39, "bbox/AP": 12.5})
    (run / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    assert main(["curves", str(run)]) == 0
    assert size_of(run / "curves.png")[0] > 1500
    assert main(["curves", str(run), "-o", str(run / "curves.txt")]) == 2
    assert main(["curves", str(tmp_path)]) == 2


@pytest.mark.skipif("DISPLAY" in os.environ, reason="there is a display")
def test_show_without_windows_says_what_to_do_before_any_work(config, tmp_path, capsys):
    assert main(["data", "--config-file", config, "-o", str(tmp_path / "out"), "--show"]) == 2
    assert "opencv-python" in capsys.readouterr().err or "DISPLAY" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
