"""Models for other runtimes: ONNX, OpenVINO and TorchScript; see docs/export.md."""

from seriatim.export.predictor import ExportedModel, ExportedPredictor

__all__ = ["ExportedModel", "ExportedPredictor"]
