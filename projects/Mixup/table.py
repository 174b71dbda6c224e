#!/usr/bin/env python
"""The table of README.md: train every row with three seeds, one run after the other, and print it.

A run that is done is kept as a JSON and not done again: stop and start as you like.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixup.results import Group, Run, load_run, table

from dataset_tools.errors import InputError, run
from dataset_tools.files import write_text
from dataset_tools.table import insert

HERE = Path(__file__).resolve().parent
CONFIGS = HERE / "configs"
# As configs/fashion/Base.yaml and configs/digits/Data.yaml have them.
CLOTHES = Path("output/mixup/fashion14.npz")
DIGITS = Path("output/mixup/digits14.npz")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
MNIST = Path("mnist.npz")
SEEDS = (0, 1, 2)
SEMI = {
    "semi-baseline": "baseline",
    "ict": "ICT",
    "ict-manifold": "manifold ICT, layers 0, 1, 2",
    "mixmatch": "MixMatch",
    "fixmatch": "FixMatch",
}


def semi_supervised(labels: int, images: str = "") -> Group:
    """The rows of all methods; `images` is the folder of configs, "" for configs/fashion."""
    return Group(
        f"{images or 'fashion'}: {labels} labels a class, the other images unlabelled",
        {"-".join(filter(None, (images, config, str(labels)))): SEMI[config] for config in SEMI},
    )


GROUPS = (
    Group(
        "fashion: 200 labels a class, no other images",
        {
            "baseline": "baseline",
            "mixup": "input mixup",
            "manifold": "manifold mixup, layers 0, 1, 2",
            "cutmix": "CutMix",
            "smoothing": "label smoothing",
        },
    ),
    semi_supervised(10),
    semi_supervised(40),
    Group(
        "fashion: 10 labels a class, the other images unlabelled, 2,000 steps",
        {"semi-baseline-long-10": "baseline", "fixmatch-long-10": "FixMatch"},
    ),
    semi_supervised(10, "digits"),
    Group(
        "digits: 10 labels a class, the other images unlabelled, 2,000 steps",
        {"digits-semi-baseline-long-10": "baseline", "digits-fixmatch-long-10": "FixMatch"},
    ),
)


def config_of(row: str) -> tuple[Path, list[str]]:
    """The config file of a row, and what it changes there."""
    folder = CONFIGS / ("digits" if row.startswith("digits-") else "fashion")
    name, _, labels = row.removeprefix("digits-").rpartition("-")
    if labels.isdigit():
        return folder / f"{name}.yaml", ["SERIATIM.SEMI.LABELS_PER_CLASS", labels]
    return folder / f"{'Base' if row == 'baseline' else row}.yaml", []


def train(row: str, seed: int, output: Path) -> Run:
    """Train and evaluate one row; the seed also draws the images that keep their label."""
    import mixup  # noqa: F401 (registers the project's meta-architectures and config keys)

    from dataset_tools.coco import read_json
    from seriatim.engine.arguments import parse_arguments
    from seriatim.engine.setup import prepare_output, setup
    from seriatim.engine.trainer import Trainer
    from seriatim.evaluation.classification import RESULTS_FILE

    config, changes = config_of(row)
    folder = output / f"{row}-seed{seed}"
    opts = [*changes, "SEED", str(seed), "SERIATIM.SEMI.SEED", str(seed), "OUTPUT_DIR", str(folder)]
    cfg = setup(parse_arguments(["--config-file", str(config), *opts]))
    prepare_output(cfg, resume=False, overwrite=True)
    start = time.process_time()
    trainer = Trainer(cfg)
    metrics = trainer.train()["classification"]
    seconds = time.process_time() - start
    images = read_json(folder / "inference" / cfg.DATASETS.TEST[0] / RESULTS_FILE)["images"]
    wrong = tuple(i for i, image in enumerate(images) if image["predicted"] != image["label"])
    top1, nll, ece = (round(metrics[name], 4) for name in ("top1", "nll", "ece"))
    steps = cfg.SOLVER.MAX_ITER
    return Run(row, seed, top1, nll, ece, wrong, len(images), steps, round(seconds, 1))


def prepare_clothes(source: Path, target: Path) -> None:
    """Write the first 12,000 training and 5,000 test images of Fashion-MNIST at half their size."""
    from dataset_tools.formats.idx import FASHION_MNIST as NAMES
    from dataset_tools.formats.idx import read_idx

    splits = {
        split: tuple(
            read_idx(_existing(source, f"{stem}-{kind}-ubyte"))[:count]
            for kind in ("images-idx3", "labels-idx1")
        )
        for split, stem, count in (("train", "train", 12_000), ("test", "t10k", 5_000))
    }
    _save(target, NAMES, splits)


def prepare_digits(source: Path, target: Path) -> None:
    """Write 10,000 digits at half their size: every fourth is for testing."""
    import numpy as np

    if not source.is_file():
        raise InputError(
            f"There is no file {source}: 10,000 digits of MNIST as an npz with `images` (N, 28, 28)"
            " uint8 and `labels` (N,), e.g. of the pictures in github.com/rasbt/mnist-pngs (MIT"
            " licence). --digits FILE names another place; --rows without digits-… needs none."
        )
    with np.load(source) as data:
        images, labels = data["images"], data["labels"]
    test = np.arange(len(images)) % 4 == 0
    splits = {
        split: (images[chosen], labels[chosen])
        for split, chosen in (("train", ~test), ("test", test))
    }
    _save(target, tuple(map(str, range(10))), splits)


def _save(target: Path, names: Sequence[str], splits: Mapping[str, tuple[Any, Any]]) -> None:
    """An npz of (N, 28, 28) uint8 images, averaged over 2×2 px, with their labels."""
    import numpy as np

    from dataset_tools.files import atomic_path

    arrays = {"class_names": np.array(names)}
    for split, (images, labels) in splits.items():
        halves = images.reshape(len(images), 14, 2, 14, 2).mean((2, 4))
        arrays[f"x_{split}"], arrays[f"y_{split}"] = np.rint(halves).astype(np.uint8), labels
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        np.savez_compressed(temporary, **arrays)
    print(f"Written: {target}")


def _existing(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"There is no {folder / name}, packed or not. Fashion-MNIST is Debian's package"
        " dataset-fashion-mnist (apt-get install dataset-fashion-mnist); --source DIR names another"
        " folder with its four files."
    )


def prepare(args: argparse.Namespace) -> None:
    """Make the files of images that the rows need and that are not there."""
    digits = {row.startswith("digits-") for row in args.rows}
    if False in digits and not CLOTHES.is_file():
        prepare_clothes(args.source, CLOTHES)
    if True in digits and not DIGITS.is_file():
        prepare_digits(args.digits, DIGITS)


def parse() -> argparse.Namespace:
    rows = [row for group in GROUPS for row in group.rows]
    parser = argparse.ArgumentParser(prog="table.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, metavar="ROW")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("output/mixup/fashion"), metavar="DIR")
    parser.add_argument("--source", type=Path, default=FASHION_MNIST, metavar="DIR")
    parser.add_argument("--digits", type=Path, default=MNIST, metavar="FILE")
    parser.add_argument("--prepare", action="store_true", help="make the files of images, no more")
    parser.add_argument("--print", action="store_true", help="print the table, train nothing")
    parser.add_argument("--readme", action="store_true", help="write it into README.md too")
    return parser.parse_args()


def main() -> int:
    args = parse()
    if not args.print:
        prepare(args)
    if args.prepare:
        return 0
    for seed in () if args.print else args.seeds:
        for row in args.rows:
            if load_run(args.results, row, seed) is None:
                done = train(row, seed, args.output)
                done.save(args.results)
                print(f"{row} seed {seed}: {done.top1:.2f} % in {done.seconds:.0f} s", flush=True)
    text = table(GROUPS, args.results, args.seeds, "table.py")
    print(text)
    if args.readme:
        page = HERE / "README.md"
        write_text(page, insert(page.read_text(encoding="utf-8"), text))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
