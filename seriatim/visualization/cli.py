"""The command line of visualize.py. `dataset_tools.dispatch` says what a command is."""

from __future__ import annotations

from dataset_tools.dispatch import CommandLine

_HELP = {
    "data": "the ground truth of a dataset",
    "inputs": "the very tensors that the network gets, after augmentation",
    "predictions": "what a model finds in images, a video or a camera",
    "compare": "ground truth | prediction, the worst images first",
    "explain": "where a model looked: Grad-CAM, integrated gradients",
    "curves": "loss, AP and learning rate over the steps of training",
}

# Command → (module, one line of help).
COMMANDS = {name: (f"seriatim.visualization.commands.{name}", text) for name, text in _HELP.items()}

COMMAND_LINE = CommandLine(
    prog="visualize.py",
    description="Pictures of data, inputs and predictions.",
    commands=COMMANDS,
    example="""\
examples:
  python visualize.py data --json datasets/cells/train.json --images photos
  python visualize.py inputs --config-file configs/demo.yaml
  python visualize.py compare --config-file configs/demo.yaml
""",
)
main = COMMAND_LINE.main
