"""The tables: numbers by hand, and README's as the stored results have them."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest
from kd3a.results import DOMAINS, METHODS, Results, Run, load_run, main_table, mean, plot_shares
from PIL import Image

from dataset_tools.errors import InputError
from dataset_tools.table import insert
from tests.projects.KD3A.test_party import _forget_datasets, write_digits  # noqa: F401

PROJECT = Path(__file__).parents[3] / "projects" / "KD3A"


def command():
    spec = importlib.util.spec_from_file_location("kd3a_table", PROJECT / "table.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """Runs of two seeds; KD3A's are as good as 90, FedAvg's as 80, + 2 with the second seed."""
    for seed in (0, 1):
        alone = {f"{a}>{b}": 50.0 + DOMAINS.index(a) for a in DOMAINS for b in DOMAINS}
        alone |= {f"average>{name}": 70.0 for name in DOMAINS}
        Run("singles", "", seed, alone).save(tmp_path)
        for target in DOMAINS:
            for row, top1 in (("fedavg", 80.0), ("kd3a-code", 90.0 + seed)):
                shares = [{target: 0.2, "usps": 0.8}, {target: 0.1, "usps": 0.9}]
                Run(row, target, seed, {target: top1 + seed}, shares, [0.5, 0.6]).save(tmp_path)
    return tmp_path


def test_methods_and_what_is_gained_over_them(folder):
    table = main_table(Results(folder, (0, 1)), "kd3a-code").splitlines()
    first, gains = (
        {line.split(" | ")[0].strip("| "): line for line in part}
        for part in (table[:10], table[10:])
    )
    assert f"| {METHODS['kd3a-code']} | " + "91.0 ± 1.4 | " * 4 + "91.0 ± 1.4 |" in table
    # The best single source of mnist … usps is optdigits (53), of optdigits usps (52).
    assert "| 53.0 ± 0.0 | 53.0 ± 0.0 | 53.0 ± 0.0 | 52.0 ± 0.0 |" in first[METHODS["best"]]
    assert "| 50.0 ± 0.0 | 51.0 ± 0.0 | 52.0 ± 0.0 | 53.0 ± 0.0 |" in first[METHODS["oracle"]]
    assert first[METHODS["combined"]].count("–") == 5
    # 90 + 2·seed less 80 + seed.
    assert "+10.5 ± 0.7" in gains[METHODS["fedavg"]]


def test_a_run_is_kept_and_a_damaged_one_told(folder):
    assert load_run(folder, "fedavg", "usps", 5) is None
    assert load_run(folder, "fedavg", "usps", 1).top1 == {"usps": 81.0}
    (folder / "fedavg-usps-seed1.json").write_text('{"row": 1, "x"')
    with pytest.raises(InputError, match="remove it, and it is redone"):
        load_run(folder, "fedavg", "usps", 1)


def test_mean_and_sample_deviation():
    assert mean([]) == "–" and mean([3.14159]) == "3.1"
    assert mean([1.0, 2.0, 6.0], signed=True) == f"+3.0 ± {math.sqrt(7):.1f}"


def test_shares_are_drawn(folder):
    path = folder / "shares.png"
    plot_shares(Results(folder, (0, 1)), "usps", {"one": "kd3a-code", "two": "fedavg"}, path)
    with Image.open(path) as picture:
        assert picture.width > picture.height > 100


def test_the_page_holds_the_stored_results():
    module = command()
    page = (PROJECT / "README.md").read_text(encoding="utf-8")
    text = module.text(Results(PROJECT / "results", module.SEEDS))
    assert insert(page, text) == page


def test_every_result_is_one_that_a_job_makes():
    module = command()
    made = {
        "-".join(filter(None, (job.row, job.target))) + f"-seed{seed}.json"
        for job in module.jobs()
        for seed in module.SEEDS
    }
    assert {path.name for path in (PROJECT / "results").glob("*.json")} <= made


@pytest.mark.parametrize("row", ["singles", "combined", "fedprox", "kd3a-code-attack-0.5"])
def test_jobs_train(row, tmp_path, monkeypatch):
    module = command()
    write_digits(tmp_path)
    monkeypatch.chdir(tmp_path)
    tiny = ["KD3A.EPOCHS", "2", "KD3A.EPOCH_IMAGES", "8", "SOLVER.IMS_PER_BATCH", "4"]
    load = module.load
    monkeypatch.setattr(module, "load", lambda opts, *rest: load([*opts, *tiny], *rest))
    job = next(job for job in module.jobs() if job.row == row)
    done = module.train(job, 0, tmp_path / "output")
    done.save(tmp_path)
    assert load_run(tmp_path, job.row, job.target, 0) == done
    assert all(0 <= value <= 100 for value in done.top1.values())
    assert not list((tmp_path / "output").iterdir())
    if row.startswith("kd3a"):
        assert len(done.shares) == len(done.coverage) == 2
        assert sum(done.shares[-1].values()) == pytest.approx(1, abs=1e-3)
    if row == "singles":
        assert len(done.top1) == 20
