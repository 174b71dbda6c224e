"""The whole order on real data: convert, check, look, train, evaluate, look again (`make demo`).

Every step is a command that a user could type; it is printed before it runs. The data are two
airborne photographs of a forest with a box for every tree crown (National Ecological Observatory
Network, annotations of the DeepForest project, MIT licence), which lie in the wheel of
`deepforest`. A second run needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from dataset_tools import errors
from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path, write_text

WHEEL = "deepforest-2.1.0-py3-none-any.whl"
WHEEL_SHA256 = "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
# Split → photograph. Two places, so that validation is on ground never seen.
PHOTOGRAPHS = {
    "train": "2019_YELL_2_528000_4978000_image_crop2",
    "val": "2019_YELL_2_541000_4977000_image_crop",
}
CONFIG = "configs/Trees-TaskAligned.yaml"
DATA = Path("demo/trees")
OUTPUT = Path("demo/output")


def main() -> int:
    """Run every step; the exit code of the first that fails."""
    arguments()
    started = time.monotonic()
    say("Data: two airborne photographs of a forest")
    unpack(fetch(Path(".cache")), DATA / "voc")
    for title, command in steps():
        say(title)
        code = run(command)
        if code:
            return code
    summarise(time.monotonic() - started)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seriatim.demo", description=__doc__.splitlines()[0]
    )
    return parser.parse_args()


def steps() -> list[tuple[str, list[str]]]:
    """Title and command of each step, in the order."""
    python = [sys.executable]
    tools = [*python, "-m", "dataset_tools"]
    config = ["--config-file", CONFIG]
    weights = ["MODEL.WEIGHTS", str(OUTPUT / "model_final.pth")]
    train, val, tiles = str(DATA / "train.json"), str(DATA / "val.json"), str(DATA / "tiles")
    pictures = OUTPUT / "pictures"
    look = [*python, "visualize.py"]
    return [
        ("Convert: labels to COCO", [*tools, "convert", "voc", str(DATA / "voc"), "-o", str(DATA)]),
        ("Check: is the dataset what it says?", [*tools, "check", train, val]),
        (
            "Tile: large photographs to training images",
            [*tools, "tile", train, "-o", tiles, "--size", "400", "--overlap", "0.25"],
        ),
        ("Look: the ground truth", [*look, "data", "--json", train, "-o", str(pictures / "data")]),
        ("Look: what the network gets", [*look, "inputs", *config, "-o", str(pictures / "inputs")]),
        (
            "Gates: can this pipeline learn?",
            [*python, "-m", "seriatim.gates", *config],
        ),
        ("Train and evaluate", [*python, "train_net.py", *config, "--overwrite"]),
        (
            "Look: hits, misses and false alarms",
            [*look, "compare", *config, "-o", str(pictures / "compare"), *weights],
        ),
    ]


def fetch(cache: Path) -> Path:
    """The wheel with the photographs: from `cache`, or else from the package index.

    Raises:
        InputError: it is not in the cache and cannot be downloaded, or has another hash.
    """
    wheel = cache / WHEEL
    if wheel.is_file() and sha256(wheel) == WHEEL_SHA256:
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    requirement = cache / "demo-data.txt"
    write_text(requirement, f"deepforest==2.1.0 --hash=sha256:{WHEEL_SHA256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    done = subprocess.run([*command, "--require-hashes", "-r", requirement, "-d", cache])
    if done.returncode or not wheel.is_file():
        raise InputError(
            "The photographs could not be downloaded (pip's message is above). They are needed "
            "once: with a network, "
            f"run again; or put {WHEEL} into {cache.resolve()}."
        )
    return wheel


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(wheel: Path, folder: Path) -> None:
    """Lay the photographs and their labels out as Pascal VOC has it, each a split of its own."""
    with zipfile.ZipFile(wheel) as archive:
        for split, name in PHOTOGRAPHS.items():
            for member, place in ((f"{name}.png", "JPEGImages"), (f"{name}.xml", "Annotations")):
                content = archive.read(f"deepforest/data/{member}")
                with atomic_path(folder / place / member) as temporary:
                    temporary.write_bytes(content)
            write_text(folder / "ImageSets" / "Main" / f"{split}.txt", f"{name}\n")


def say(title: str) -> None:
    print(f"\n━━ {title} " + "━" * max(0, 70 - len(title)), flush=True)


def run(command: list[str]) -> int:
    """Print a command as a user would type it, run it, and give its exit code."""
    shown = ["python" if word == sys.executable else word for word in command]
    print(f"$ {shlex.join(shown)}", flush=True)
    return subprocess.run(command).returncode


def summarise(seconds: float) -> None:
    """The measured AP and where to look, in a few lines."""
    with (OUTPUT / "metrics.json").open() as lines:
        results = [line for line in map(json.loads, lines) if "bbox/AP" in line][-1]
    say("Done")
    print(
        f"AP {results['bbox/AP']:.1f}, AP50 {results['bbox/AP50']:.1f} on a place never seen, in "
        f"{seconds / 60:.1f} minutes.\n"
        f"Pictures:     {OUTPUT / 'pictures'}\n"
        f"Curves:       tensorboard --logdir {OUTPUT}\n"
        f"Your own:     README.md, “Your own data in four commands”"
    )


if __name__ == "__main__":
    sys.exit(errors.run(main))
