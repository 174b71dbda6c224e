"""Results of repeated runs: one JSON a run, summed up in Markdown, compared by paired tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from dataset_tools.errors import InputError
from dataset_tools.files import write_json

LEVEL = 0.05


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        row: the key of its row. seed: of the weights, the batches and the labels that are kept.
        top1: percent. nll: nats. ece: percent.
        wrong: numbers of the test images that are classified wrongly, in ascending order.
        images: of the test set. seconds: of CPU time that training and evaluation took.
    """

    row: str
    seed: int
    top1: float
    nll: float
    ece: float
    wrong: tuple[int, ...]
    images: int
    steps: int
    seconds: float

    def save(self, folder: Path) -> None:
        """Write ROW-seedN.json; `wrong` as hexadecimal digits of a bit for each image."""
        bits = np.zeros(self.images, np.uint8)
        bits[list(self.wrong)] = 1
        values = {**asdict(self), "wrong": np.packbits(bits).tobytes().hex()}
        write_json(self.path(folder, self.row, self.seed), values)

    @staticmethod
    def path(folder: Path, row: str, seed: int) -> Path:
        return folder / f"{row}-seed{seed}.json"


def load_run(folder: Path, row: str, seed: int) -> Run | None:
    """The run if it is done. InputError if its file is damaged."""
    path = Run.path(folder, row, seed)
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(values["wrong"]), np.uint8))
        return Run(**{**values, "wrong": tuple(np.flatnonzero(bits).tolist())})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is no result of a run ({error}): remove it, and it is redone."
        ) from None


def seeds_p(runs: Sequence[Run], others: Sequence[Run]) -> float:
    """Two-sided p of a paired t-test over the seeds that both have: would another seed, with other
    labels and weights, show the difference too? NaN with fewer than two."""
    pairs = _paired(runs, others)
    if len(pairs) < 2:
        return float("nan")
    differences = [a.top1 - b.top1 for a, b in pairs]
    if np.ptp(differences) == 0:
        return 0.0 if differences[0] else 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def images_p(runs: Sequence[Run], others: Sequence[Run]) -> float:
    """Two-sided p of an exact McNemar test over the test images of all seeds that both have: would
    other test images show the difference between these very models too? NaN without a seed."""
    pairs = _paired(runs, others)
    if not pairs:
        return float("nan")
    better = sum(len(set(b.wrong) - set(a.wrong)) for a, b in pairs)
    worse = sum(len(set(a.wrong) - set(b.wrong)) for a, b in pairs)
    if better + worse == 0:
        return 1.0
    return float(stats.binomtest(better, better + worse).pvalue)


def _paired(runs: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    by_seed = {run.seed: run for run in others}
    return [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979); NaN stays NaN and does not count."""
    order = sorted((i for i, p in enumerate(values) if not np.isnan(p)), key=values.__getitem__)
    adjusted, largest = [float("nan")] * len(values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, values[i] * (len(order) - rank)))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Group:
    """Rows that are compared with the first of them; keys of rows → what they are called."""

    title: str
    rows: Mapping[str, str]


def table(groups: Sequence[Group], folder: Path, seeds: Sequence[int], command: str) -> str:
    """The Markdown table of all groups. Rows that lack runs say so, and how to make them."""
    lines = [
        "| | top-1 % | against the baseline | p (seeds) | p (images) | NLL | ECE % | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in groups:
        lines.append(f"| **{group.title}** | | | | | | | |")
        lines += _rows(group, folder, seeds, command)
    return "\n".join(lines)


def _rows(group: Group, folder: Path, seeds: Sequence[int], command: str) -> list[str]:
    found = {
        row: [run for seed in seeds if (run := load_run(folder, row, seed))] for row in group.rows
    }
    baseline, *others = group.rows
    p_seeds = dict(
        zip(others, holm([seeds_p(found[r], found[baseline]) for r in others]), strict=True)
    )
    p_images = dict(
        zip(others, holm([images_p(found[r], found[baseline]) for r in others]), strict=True)
    )
    lines = []
    for row, title in group.rows.items():
        runs, how = found[row], f"`{command} --rows {row}`"
        if len(runs) < len(seeds):
            title += f" (**{len(runs)} of {len(seeds)} seeds**)"
        if not runs:
            lines.append(f"| {title} | not run | | | | | | {how} |")
            continue
        difference = "" if row == baseline else _difference(runs, found[baseline])
        lines.append(
            f"| {title} | {_mean([r.top1 for r in runs])} | {difference} | {_p(p_seeds.get(row))} |"
            f" {_p(p_images.get(row))} | {_mean([r.nll for r in runs])} |"
            f" {_mean([r.ece for r in runs], 1)} | {how} |"
        )
    return lines


def _difference(runs: Sequence[Run], baseline: Sequence[Run]) -> str:
    pairs = _paired(runs, baseline)
    return f"{np.mean([a.top1 - b.top1 for a, b in pairs]):+.2f}" if pairs else ""


def _mean(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation (of a sample)."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def _p(value: float | None) -> str:
    """Bold where it is significant."""
    if value is None or np.isnan(value):
        return ""
    shown = "< 0.001" if value < 0.001 else f"{value:.3f}"
    return f"**{shown}**" if value < LEVEL else shown
