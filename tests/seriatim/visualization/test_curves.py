"""metrics.json as training leaves it: resumed, cut off, with NaN."""

import json

import numpy as np
import pytest

from dataset_tools.errors import InputError
from seriatim.visualization.curves import draw_curves, read_metrics, smooth


def write(path, records, tail=""):
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    return path


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    first = [{"iteration": i, "total_loss": 10.0 + i} for i in (19, 39, 59, 79)]
    first.insert(3, {"iteration": 59, "bbox/AP": 1.0})
    again = [{"iteration": i, "total_loss": 20.0 + i} for i in (59, 79, 99)]
    metrics = read_metrics(write(tmp_path / "metrics.json", first + again))
    assert metrics["total_loss"].steps == [19, 39, 59, 79, 99]
    assert metrics["total_loss"].values == [29, 49, 79, 99, 119]
    assert metrics["bbox/AP"].values == [1.0]  # an evaluation that was not repeated stays


def test_lines_of_one_step_and_a_last_line_cut_off(tmp_path):
    records = [{"iteration": 5, "lr": 0.1}, {"iteration": 5, "total_loss": float("nan")}]
    metrics = read_metrics(write(tmp_path / "metrics.json", records, '{"iteration": 6, "lr'))
    assert metrics["lr"].steps == [5] and np.isnan(metrics["total_loss"].values[0])


@pytest.mark.parametrize("content", ["", "no json\n{}\n", '{"lr": 1}\n{"iteration": 1}\n'])
def test_what_is_no_metrics_file_is_refused(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"metrics\.json"):
        read_metrics(path)


def test_smoothing_is_a_median_that_nan_does_not_spoil():
    values = np.ones(60)
    values[30], values[40] = 1000.0, np.nan
    assert np.allclose(smooth(values), 1.0)
    assert np.allclose(smooth(np.arange(60.0))[5:-5], np.arange(60.0)[5:-5])


def test_several_runs_in_one_picture(tmp_path):
    runs = {}
    for name in "ab":
        records = [{"iteration": i, "total_loss": 1.0, "bbox/AP": 2.0, "lr": 1} for i in range(3)]
        runs[name] = read_metrics(write(tmp_path / f"{name}.json", records))
    path = draw_curves(runs, tmp_path / "curves.svg")
    text = path.read_text()
    assert text.startswith("<?xml")
    with pytest.raises(InputError, match="neither"):
        draw_curves({"a": {}}, tmp_path / "x.png")
