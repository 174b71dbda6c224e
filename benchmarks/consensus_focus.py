"""KD3A's consensus focus: Shapley values from 2^K coalitions beside the walk through K! orders.

    python benchmarks/consensus_focus.py
    python benchmarks/consensus_focus.py --sources 4 8

One batch of 128 images and 345 classes (DomainNet's). The walk votes once for every coalition,
image by image, and then goes through all orders, as the definition has it; both give the same
values, which is checked. Times are processor seconds of the best of three, with one thread; the
walk is left out where it has more than 9! orders.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _machine import describe_machine

from dataset_tools import errors
from dataset_tools.table import text_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects" / "KD3A"))
from kd3a.focus import all_coalitions, shapley_values
from kd3a.vote import coalition_values, knowledge_vote

IMAGES, CLASSES, GATE = 128, 345, 0.8


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=int, nargs="+", default=[4, 8, 12], metavar="K")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine(), flush=True)
    rows = [compare(sources, args.repeat) for sources in args.sources]
    print(text_table(("sources", "coalitions", "orders", "ms", "walk ms", "×"), rows))
    return 0


def compare(sources: int, repeat: int) -> tuple[str, ...]:
    """A row of the table."""
    votes = probabilities(sources)
    ours, found = best_of(repeat, lambda: by_coalitions(votes))
    head = (str(sources), f"{2**sources:,}", f"{math.factorial(sources):,}", f"{ours * 1e3:.2f}")
    if sources > 9:
        return (*head, "–", "–")
    theirs, expected = best_of(1, lambda: by_orders(votes))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    return (*head, f"{theirs * 1e3:.0f}", f"{theirs / ours:.0f}")


def probabilities(sources: int) -> torch.Tensor:
    """(images, sources, classes) of models that agree on about half of the images."""
    generator = torch.Generator().manual_seed(sources)
    truth = torch.randint(CLASSES, (IMAGES, 1), generator=generator).expand(-1, sources)
    other = torch.randint(CLASSES, (IMAGES, sources), generator=generator)
    agrees = torch.rand(IMAGES, sources, generator=generator) < 0.5
    logits = torch.randn(IMAGES, sources, CLASSES, generator=generator)
    chosen = torch.where(agrees, truth, other)[..., None]
    strength = 5 + 5 * torch.rand(IMAGES, sources, 1, generator=generator)
    return logits.scatter_add(2, chosen, strength).softmax(-1).double()


def by_coalitions(votes: torch.Tensor) -> torch.Tensor:
    return shapley_values(coalition_values(votes, GATE, all_coalitions(votes.shape[1])))


def by_orders(votes: torch.Tensor) -> torch.Tensor:
    """What each source adds, averaged over all orders in which coalitions can grow."""
    sources = votes.shape[1]
    worth = {frozenset(): 0.0}
    for size in range(1, sources + 1):
        for members in itertools.combinations(range(sources), size):
            support = (knowledge_vote(image[None, members], GATE).support for image in votes)
            worth[frozenset(members)] = sum(value.item() for value in support)
    added = [0.0] * sources
    for order in itertools.permutations(range(sources)):
        for place, source in enumerate(order):
            gain = worth[frozenset(order[: place + 1])] - worth[frozenset(order[:place])]
            added[source] += gain / math.factorial(sources)
    return torch.tensor(added, dtype=torch.float64)


def best_of(repeat: int, run: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Processor seconds of the best run, and its result."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        result = run()
        times.append(time.process_time() - start)
    return min(times), result


if __name__ == "__main__":
    sys.exit(errors.run(main))
