"""The tools on COCO files, given damaged ones: command lines, and how to run one in a trial."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from dataset_tools.cli import main
from dataset_tools.errors import InputError
from dataset_tools.formats import written_formats
from seriatim.testing.shapes import make_shapes
from tests.fuzz.fixtures import Fixture

MAP = "categories: {circle: round, square: null}\nothers: keep\norder: [triangle]\n"
# {a}, {b}: two COCO files; {photos}: their images; {map}: a YAML file; {out}: a new folder.
COMMANDS = {
    "check": "check {a} --images {photos} --fix -o {out}/mended.json",
    "stats": "stats {a} --html {out}/stats.html --strides 8,16",
    "split": "split {a} -o {out} --split train=0.5,val=0.5 --stratify --group-by ^(.)",
    "subset": "subset {a} -o {out}/some.json --categories circle --min-size 2",
    "cover": "subset {a} -o {out}/some.json --cover 2",
    "tile": "tile {a} -o {out} --size 16",
    "merge": "merge {a} {b} -o {out}/both.json --map {map}",
    "diff": "diff {a} {b} --json",
    "sheet": "diff {b} {a} --sheet {out}/sheet.png",
    "remap": "remap {a} -o {out} --map {map}",
    "sample": "sample {a} -o {out}/few.json -n 2",
    "anonymise": "anonymise {a} -o {out} --categories circle",
    **{f"export-{name}": f"export {name} {{a}} -o {{out}}" for name in written_formats()},
}


def make_tool_fixtures(folder: Path, names: tuple[str, ...] = tuple(COMMANDS)) -> list[Fixture]:
    """For each command two COCO files with images, and a map."""
    coco = make_shapes(folder / "shapes", num_images=3, size=(24, 32))
    (folder / "tools").mkdir()
    content = json.loads(coco.read_text(encoding="utf-8")) | {"info": {"image_root": "images"}}
    for name in ("all", "other"):
        (folder / f"tools/{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "tools/map.yaml").write_text(MAP)
    shutil.copytree(coco.parent / "images", folder / "tools/images")
    fixtures = [Fixture(name, folder / "tools", runner(COMMANDS[name])) for name in names]
    for fixture in fixtures:  # they are right: so damage is what is refused
        fixture.run(fixture.folder, folder / "whole" / fixture.format)
    return fixtures


def runner(line: str) -> Callable[[Path, Path], None]:
    """Runs a command line on a folder. InputError for exit code 2, RuntimeError for our fault."""

    def run(source: Path, output: Path) -> None:
        places = {"a": source / "all.json", "b": source / "other.json", "out": output}
        places |= {"photos": source / "images", "map": source / "map.yaml"}
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            code = _exit_code([word.format(**places) for word in line.split()])
        if code == 2 and told.getvalue():  # without: check found errors in the labels
            raise InputError(told.getvalue())
        if code not in (0, 2):
            raise RuntimeError(told.getvalue())

    return run


def _exit_code(arguments: list[str]) -> int:
    try:
        return main(arguments) or 0
    except SystemExit as stop:
        return int(stop.code or 0)
