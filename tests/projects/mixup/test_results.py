"""Tests of significance beside scipy's and statistics by counting; the table in all its states."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mixup.results import Group, Run, holm, images_p, load_run, seeds_p, table
from scipy import stats

from dataset_tools.errors import InputError

IMAGES = 200


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
