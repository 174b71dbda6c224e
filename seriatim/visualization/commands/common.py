"""What the commands share: options, datasets, and the gallery that their pictures go to."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dataset_tools.errors import InputError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from seriatim.visualization.sheet import Picture

T = TypeVar("T")


def add_output_options(parser: argparse.ArgumentParser, default: str) -> None:
    """-o and --show."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help=f"where the pictures go (default: {default})",
    )
    parser.add_argument(
        "--show", action="store_true", help="also open a window; arrow keys leaf through"
    )


def add_selection_options(parser: argparse.ArgumentParser, num: int) -> None:
    """--num and --match."""
    parser.add_argument(
        "--num",
        type=positive,
        default=num,
        metavar="N",
        help=f"at most N images, spread evenly (default: {num})",
    )
    parser.add_argument(
        "--match", default="*", metavar="GLOB", help="only images whose file name matches"
    )


def add_config_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """--config-file and KEY VALUE pairs."""
    parser.add_argument(
        "--config-file", required=required, metavar="FILE", help="as for train_net.py"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    """--weights of the model that is asked."""
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="default: MODEL.WEIGHTS, or those in OUTPUT_DIR",
    )


def add_dataset_options(parser: argparse.ArgumentParser, default: str) -> None:
    """--json and --images, or a config and --dataset."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="a COCO JSON (no config needed)")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="its images (default: as the JSON says)"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help=f"a dataset of the config (default: {default})"
    )
    add_config_options(parser, required=False)


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {value}")
    return value


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"from 0 to 1, not {value}")
    return value


def resolved_config(args: argparse.Namespace, weights: Path | None = None) -> CfgNode:
    """The config as train_net.py resolves it, with `weights` as MODEL.WEIGHTS if given."""
    from seriatim.engine.setup import setup

    opts = [*args.opts, *(("MODEL.WEIGHTS", str(weights)) if weights else ())]
    return setup(argparse.Namespace(config_file=args.config_file, opts=opts, resume=False))


def open_dataset(args: argparse.Namespace, group: str) -> str:
    """The registered name of the dataset that the options ask for.

    Args:
        group: "TRAIN" or "TEST": whose first dataset is the default.
    """
    from seriatim.config import get_cfg, load_config
    from seriatim.data.catalog import register_datasets

    if args.json is not None:
        if args.config_file:
            raise InputError("Give either --json or --config-file, not both.")
        cfg = get_cfg()
        name = args.json.stem
        images = {"IMAGES": str(args.images)} if args.images else {}
        cfg.SERIATIM.DATASETS = [{"NAME": name, "JSON": str(args.json), **images}]
        register_datasets(cfg)
        return name
    if not args.config_file:
        raise InputError("Which dataset? Give --json FILE [--images DIR], or --config-file FILE.")
    cfg = load_config(args.config_file, args.opts)
    register_datasets(cfg)
    return choose_dataset(cfg, args.dataset, group)


def choose_dataset(cfg: CfgNode, name: str | None, group: str) -> str:
    """`name`, or the first dataset in DATASETS.TRAIN or DATASETS.TEST."""
    from detectron2.data import DatasetCatalog

    known = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if name is None:
        names = cfg.DATASETS[group] or tuple(known)
        if not names:
            raise InputError("The config names no dataset in DATASETS.TRAIN or DATASETS.TEST.")
        name = names[0]
    if name not in DatasetCatalog.list():
        raise InputError(f"There is no dataset {name!r} in the config; it has {', '.join(known)}.")
    return name


def select(records: Sequence[T], num: int, match: str = "*", key: str = "file_name") -> list[T]:
    """At most `num` of the records whose file name (or its last part) matches, spread evenly."""
    if match == "*":
        count = min(num, len(records))
        return [records[i * (len(records) - 1) // max(1, count - 1)] for i in range(count)]
    chosen = [
        record
        for record in records
        if fnmatch.fnmatch(record[key], match) or fnmatch.fnmatch(Path(record[key]).name, match)
    ]
    if not chosen:
        raise InputError(f"None of the {len(records)} images has a name that matches {match!r}.")
    if len(chosen) <= num:
        return chosen
    return [chosen[i * (len(chosen) - 1) // max(1, num - 1)] for i in range(num)]


class Gallery:
    """Where the pictures of a command go: files, a contact sheet, and a window if wanted."""

    def __init__(self, folder: Path, sheet: str, show: bool = False):
        from seriatim.visualization.sheet import ContactSheet

        if show:
            from seriatim.visualization.window import check_window

            check_window()  # before the work, not after it
        self.folder, self._show = folder, show
        self._sheet = ContactSheet(folder / sheet)
        self._files: list[Path] = []
        self._names: set[str] = set()

    def add(self, picture: Picture, name: str, scale: float | None = None) -> None:
        """Write the picture as NAME.jpg and put it on the sheet.

        `scale` is that of the file; by default tiny images are enlarged, others stay as they are.
        """
        from seriatim.visualization.image import enlargement
        from seriatim.visualization.sheet import write_image

        if scale is None:
            scale = enlargement(picture.height, picture.width)
        path = self.folder / f"{self._unique(name)}.jpg"
        self._files.append(write_image(path, picture.captioned(scale)))
        self._sheet.add(picture)

    def close(self, *others: Path) -> None:
        """Finish the sheet, say what was written (`others` too), and open the window if wanted."""
        sheets = self._sheet.close()
        print(f"\nWritten to {self.folder}:")
        for path in [*sheets, *others]:
            print(f"  {path.relative_to(self.folder)}")
        if self._files:
            first, last = self._files[0].name, self._files[-1].name
            between = f"{first} … {last}" if len(self._files) > 1 else first
            print(f"  {between} ({len(self._files)} pictures)")
        if self._show:
            from seriatim.visualization.window import show_files

            show_files(self._files)

    def _unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate.lower() in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate.lower())
        return candidate


def relative_name(record: dict[str, Any], metadata: Any) -> str:
    """The record's file name as the dataset has it, for captions."""
    path, root = Path(record["file_name"]), getattr(metadata, "image_root", None)
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.name
