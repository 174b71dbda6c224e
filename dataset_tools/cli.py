"""The command line `python -m dataset_tools COMMAND …`. `dispatch` says what a command is."""

from __future__ import annotations

from dataset_tools.dispatch import CommandLine

# Command → (module, one line of help).
COMMANDS: dict[str, tuple[str, str]] = {
    "convert": ("dataset_tools.convert", "labels of any known format to COCO JSON"),
    "export": ("dataset_tools.export", "COCO JSON to labels of another format"),
    "formats": ("dataset_tools.list_formats", "the known formats, what each carries and loses"),
    "check": ("dataset_tools.check", "find faults in a COCO dataset, and mend what can be mended"),
    "stats": ("dataset_tools.stats", "count classes, sizes and shapes of objects"),
    "split": ("dataset_tools.split", "divide a dataset into train, val, …"),
    "subset": ("dataset_tools.subset", "take some of the categories, sizes or images"),
    "merge": ("dataset_tools.merge", "join several datasets"),
    "diff": ("dataset_tools.diff", "what changed between two versions of a dataset"),
    "remap": ("dataset_tools.remap", "rename, join, drop and order categories"),
    "sample": ("dataset_tools.sample", "take images with as much of every category"),
    "anonymise": ("dataset_tools.anonymise", "blur or pixelate faces, plates, …"),
    "tile": ("dataset_tools.tile", "cut large images into overlapping tiles"),
}

COMMAND_LINE = CommandLine(
    prog="python -m dataset_tools",
    description="Labels of any format to a checked COCO dataset.",
    commands=COMMANDS,
    example="""\
example:
  python -m dataset_tools convert auto my_labels -o datasets/mine
  python -m dataset_tools check datasets/mine/all.json
""",
)
main = COMMAND_LINE.main
