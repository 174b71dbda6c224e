"""How good a model is, in the field's own measures."""

from seriatim.evaluation.build import build_evaluator

__all__ = ["build_evaluator"]
