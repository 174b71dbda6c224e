"""Results of repeated runs: one JSON a run, summed up in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path, write_json
from seriatim.visualization import palette

DOMAINS = ("mnist", "mnist_m", "usps", "optdigits")


@dataclass(frozen=True)
class Run:
    """What one training run reached.

    Attributes:
        row: which one. target: the domain without labels; "" where a model was trained on each.
        seed: of weights and batches.
        top1: percent on the test images of a domain, by domain; of several models as MODEL>DOMAIN.
        shares: of each party in the average, round by round.
        coverage: share of the target's images with a consensus, round by round.
        seconds: of CPU time.
    """

    row: str
    target: str
    seed: int
    top1: Mapping[str, float]
    shares: list[dict[str, float]] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def save(self, folder: Path) -> None:
        write_json(path_of(folder, self.row, self.target, self.seed), asdict(self))


def path_of(folder: Path, row: str, target: str, seed: int) -> Path:
    return folder / f"{'-'.join(filter(None, (row, target)))}-seed{seed}.json"


def load_run(folder: Path, row: str, target: str, seed: int) -> Run | None:
    """The run if it is done. InputError if its file is damaged."""
    path = path_of(folder, row, target, seed)
    if not path.is_file():
        return None
    try:
        return Run(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is no result of a run ({error}): remove it, and it is redone."
        ) from None


@dataclass(frozen=True)
class Results:
    """All runs in a folder that are done."""

    folder: Path
    seeds: Sequence[int]

    def runs(self, row: str, target: str) -> list[Run]:
        found = [load_run(self.folder, row, target, seed) for seed in self.seeds]
        return [run for run in found if run is not None]

    def accuracies(self, method: str, target: str) -> list[float]:
        """Percent on the target's test images, seed by seed.

        `method` is a row, or what is had from the models that each know one domain: "single:DOMAIN"
        (one of them), "average" (the mean of the sources' logits), "oracle" (the target's own).
        """
        if method in ("average", "oracle") or method.startswith("single:"):
            model = {"average": "average", "oracle": target}.get(method, method[7:])
            return [run.top1[f"{model}>{target}"] for run in self.runs("singles", "")]
        return [run.top1[target] for run in self.runs(method, target)]

    def best_single(self, target: str) -> str:
        """The source whose model alone is best on the target: known from the target's labels only,
        so that nobody could choose it."""
        sources = [f"single:{name}" for name in DOMAINS if name != target]
        return max(sources, key=lambda s: np.mean(self.accuracies(s, target) or [0.0]))


METHODS = {
    "best": "source-only, best single",
    "combined": "source-only, combined",
    "average": "average of the sources' logits",
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "kd3a-code": "KD3A, `code`",
    "kd3a-paper": "KD3A, `paper`",
    "oracle": "oracle (the target's labels)",
}


def main_table(results: Results, kd3a: str) -> str:
    """Methods × targets, and below it what the variant `kd3a` gains over each method."""
    lines = [
        f"| top-1 % on the target | {' | '.join(DOMAINS)} | mean |",
        f"|---|{'---|' * len(DOMAINS)}---|",
    ]
    by_method = {m: [_found(results, m, target) for target in DOMAINS] for m in METHODS}
    for method, title in METHODS.items():
        lines.append(f"| {title} | {' | '.join(map(mean, _with_mean(by_method[method])))} |")
    lines.append(f"| **{METHODS[kd3a]} less …** |{' |' * (len(DOMAINS) + 1)}")
    for method, title in METHODS.items():
        if method in (kd3a, "oracle"):
            continue
        columns = zip(_with_mean(by_method[kd3a]), _with_mean(by_method[method]), strict=True)
        gains = [mean(differences(*pair), signed=True) for pair in columns]
        lines.append(f"| {title} | {' | '.join(gains)} |")
    return "\n".join(lines)


def _found(results: Results, method: str, target: str) -> list[float]:
    return results.accuracies(results.best_single(target) if method == "best" else method, target)


def _with_mean(columns: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The columns, and the mean over targets of each seed that all of them have."""
    seeds = min(map(len, columns))
    return [*columns, [float(np.mean([c[i] for c in columns])) for i in range(seeds)]]


def differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Seed by seed."""
    return [a - b for a, b in zip(ours, theirs, strict=False)]


def mean(values: Sequence[float], signed: bool = False) -> str:
    """Mean ± standard deviation (of a sample)."""
    if not values:
        return "–"
    text = f"{np.mean(values):{'+' if signed else ''}.1f}"
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.1f}"


def rows_table(results: Results, target: str, head: str, rows: Mapping[str, Sequence[str]]) -> str:
    """Rows whose cells are runs on one target."""
    lines = [head, "|---" * head.count("|", 1) + "|"]
    for title, cells in rows.items():
        found = [mean(results.accuracies(row, target)) for row in cells]
        lines.append(f"| {title} | {' | '.join(found)} |")
    return "\n".join(lines)


def plot_shares(results: Results, target: str, panels: Mapping[str, str], path: Path) -> None:
    """Draw the parties' shares over the rounds, mean of the seeds: title of a panel → its row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(panels), 3.0), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = None
    for number, (title, row) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1, sharey=axes)
        runs = results.runs(row, target)
        for place, name in enumerate(DOMAINS):
            shares = np.array([[line.get(name, 0.0) for line in run.shares] for run in runs])
            if shares.size:
                label = f"{name} (target)" if name == target else name
                color = [value / 255 for value in palette.color(place)]
                rounds = np.arange(1, shares.shape[1] + 1)
                axes.plot(rounds, shares.mean(0), color=color, label=label, linewidth=2)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("round")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # After all is drawn: a limit ends the scaling of an axis, which the panels share.
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[0].set_ylabel("share in the average")
    figure.axes[0].legend(fontsize=8, frameon=False, loc="upper right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
