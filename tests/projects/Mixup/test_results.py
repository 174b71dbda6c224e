"""Tests of significance beside scipy's and statistics by counting; the table in all its states."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from mixup.results import Group, Run, holm, images_p, load_run, seeds_p, table
from scipy import stats

from dataset_tools.errors import InputError
from dataset_tools.table import MARKS, insert

IMAGES = 200
PROJECT = Path(__file__).parents[3] / "projects" / "Mixup"


def run(row: str, seed: int, wrong) -> Run:
    wrong = tuple(sorted(wrong))
    top1 = 100 * (1 - len(wrong) / IMAGES)
    return Run(row, seed, top1, 0.5 + seed / 10, 4.0, wrong, IMAGES, 100, 1.5)


def runs(row: str, shares: list[float]) -> list[Run]:
    made = []
    for seed, share in enumerate(shares):
        order = np.random.default_rng((len(row), seed)).permutation(IMAGES)
        made.append(run(row, seed, order[: int(share * IMAGES)].tolist()))
    return made


def test_the_test_over_seeds_is_the_paired_t_test():
    a, b = runs("a", [0.2, 0.25, 0.22]), runs("bb", [0.3, 0.31, 0.33])
    expected = stats.ttest_rel([r.top1 for r in a], [r.top1 for r in b]).pvalue
    assert seeds_p(a, b) == pytest.approx(expected)
    assert seeds_p(list(reversed(a)), b) == pytest.approx(expected)
    assert math.isnan(seeds_p(a[:1], b)) and seeds_p(a, a) == 1


def test_the_test_over_images_counts_where_one_is_right_and_the_other_wrong():
    a, b = [run("a", 0, range(10))], [run("b", 0, range(5, 30))]
    # 5 images are wrong only in a, 20 only in b.
    two_sided = 2 * sum(math.comb(25, k) for k in range(6)) / 2**25
    assert images_p(a, b) == pytest.approx(two_sided) == pytest.approx(images_p(b, a))
    assert images_p(a, a) == 1 and math.isnan(images_p(a, []))


def test_holm():
    assert holm([0.01, 0.04, 0.03, float("nan")])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(holm([0.01, float("nan")])[1]) and holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_run_is_kept_and_a_damaged_one_told(tmp_path):
    one = run("a", 2, [3, 5])
    assert load_run(tmp_path, "a", 2) is None
    one.save(tmp_path)
    assert load_run(tmp_path, "a", 2) == one
    Run.path(tmp_path, "a", 2).write_text('{"row": "a"')
    with pytest.raises(InputError, match=r"a-seed2\.json"):
        load_run(tmp_path, "a", 2)


def test_the_table_tells_what_is_missing_and_what_is_significant(tmp_path):
    group = Group(
        "Ten labels", {"base": "baseline", "good": "better", "late": "later", "no": "none"}
    )
    kept = [
        *runs("base", [0.5, 0.52, 0.51]),
        *runs("good", [0.3, 0.33, 0.31]),
        *runs("late", [0.5]),
    ]
    for one in kept:
        one.save(tmp_path)
    text = table([group], tmp_path, (0, 1, 2), "table.py")
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()}
    assert "49.00 ± 1.00" in lines["baseline"] and "| **" not in lines["baseline"]
    assert "+19.67" in lines["better"] and "**< 0.001**" in lines["better"]
    assert "50.00 |" in lines["later (**1 of 3 seeds**)"]
    missing = lines["none (**0 of 3 seeds**)"]
    assert "not run" in missing and "`table.py --rows no`" in missing


def test_a_table_is_put_between_its_marks():
    page = f"before {MARKS[0]}old{MARKS[1]} after"
    assert insert(page, "new") == f"before {MARKS[0]}new{MARKS[1]} after"
    with pytest.raises(InputError, match="no place"):
        insert("before", "new")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mixup_table", PROJECT / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_readme_is_that_of_the_kept_results(script):
    text = table(script.GROUPS, PROJECT / "results", script.SEEDS, "table.py")
    page = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert insert(page, text) == page


def test_every_row_has_its_config(script):
    rows = [row for group in script.GROUPS for row in group.rows]
    assert len(rows) == len(set(rows)) == 24
    assert all(script.config_of(row)[0].is_file() for row in rows)
    assert script.config_of("ict-manifold-40")[1] == ["SERIATIM.SEMI.LABELS_PER_CLASS", "40"]
    config, changes = script.config_of("digits-fixmatch-10")
    assert config == PROJECT / "configs" / "digits" / "fixmatch.yaml" and changes[1] == "10"


def test_images_are_averaged_over_squares(script, tmp_path):
    generator = np.random.default_rng(0)
    for stem, count in (("train", 12_000), ("t10k", 5_000)):
        images = generator.integers(256, size=(count, 28, 28), dtype=np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", np.arange(count) % 10)):
            head = bytes([0, 0, 8, values.ndim]) + b"".join(
                n.to_bytes(4, "big") for n in values.shape
            )
            content = head + values.astype(np.uint8).tobytes()
            (tmp_path / f"{stem}-{kind}-ubyte").write_bytes(content)
    script.prepare_clothes(tmp_path, tmp_path / "half.npz")
    with np.load(tmp_path / "half.npz") as half:
        assert half["x_train"].shape == (12_000, 14, 14) and half["y_test"][13] == 3
        expected = images[7, 4:6, 10:12].mean()  # images is that of the test set
        assert abs(half["x_test"][7, 2, 5] - expected) <= 0.5
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        script.prepare_clothes(tmp_path / "elsewhere", tmp_path / "none.npz")


def test_every_fourth_digit_is_for_testing(script, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(9, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", images=images, labels=np.arange(9))
    script.prepare_digits(tmp_path / "mnist.npz", tmp_path / "half.npz")
    with np.load(tmp_path / "half.npz") as half:
        assert half["y_test"].tolist() == [0, 4, 8]
        assert half["y_train"].tolist() == [1, 2, 3, 5, 6, 7]
        assert abs(half["x_test"][1, 3, 4] - images[4, 6:8, 8:10].mean()) <= 0.5
    with pytest.raises(InputError, match="mnist-pngs"):
        script.prepare_digits(tmp_path / "none.npz", tmp_path / "half.npz")
