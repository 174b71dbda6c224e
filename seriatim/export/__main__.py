"""`python -m seriatim.export --config-file FILE -o FOLDER`: a model for another runtime."""

from __future__ import annotations

import argparse
import sys

from dataset_tools import errors

EXAMPLES = """\
examples:
  python -m seriatim.export --config-file configs/BCCD-TaskAligned.yaml -o exported
  python -m seriatim.export --config-file FILE --weights model.pth -o exported --format openvino

Then, in Python:
  from seriatim.export import ExportedPredictor
  found = ExportedPredictor("exported").predict_file("photo.jpg")["instances"]
"""


def main() -> int:
    args = build_parser().parse_args()
    from seriatim.engine.setup import setup
    from seriatim.export.write import export
    from seriatim.predictor import load_model

    cfg = setup(args)
    model, weights = load_model(cfg, args.weights)
    path = export(cfg, model, args.output, args.format)
    print(f"{weights} → {path}, which answers as it does for images of two sizes")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m seriatim.export`."""
    parser = argparse.ArgumentParser(
        prog="python -m seriatim.export",
        description="Write a trained model for ONNX Runtime, OpenVINO or TorchScript.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="as train_net.py takes it")
    add("--weights", metavar="FILE", help="default: MODEL.WEIGHTS, or what OUTPUT_DIR holds")
    add("-o", "--output", required=True, metavar="FOLDER", help="where the model is written")
    add(
        "--format",
        choices=("onnx", "openvino", "torchscript"),
        default="onnx",
        help="default: onnx",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    return parser


if __name__ == "__main__":
    sys.exit(errors.run(main))
