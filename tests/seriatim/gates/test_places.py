"""The causes of a finding name the line of a user's code, and values of the config."""

from pathlib import Path

from seriatim.data.mapper import SeriatimMapper
from seriatim.engine.trainer import Trainer
from seriatim.gates.places import locate
from seriatim.gates.verdict import Cause, Finding

from .pipelines import pipeline
from .test_oracle import trainer_with


class OwnMapper(SeriatimMapper):
    def __call__(self, record):
        return super().__call__(record)


class OwnEvaluator(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return super().build_evaluator(cfg, dataset_name)


def located(context, where):
    finding = Finding("", "", [Cause("it", where)])
    locate([finding], context)
    return finding.causes[0].where


def line_of(text):
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return lines.index(text) + 1


def test_own_code_is_named_by_file_and_line(tmp_path):
    context = pipeline(tmp_path, "retinanet", trainer_with(OwnMapper))
    line = line_of("    def __call__(self, record):")
    assert located(context, "build_mapper") == f"build_mapper, {__file__}:{line}"
    evaluated = pipeline(tmp_path, "retinanet", OwnEvaluator)
    line = line_of("    def build_evaluator(cls, cfg, dataset_name):") - 1  # its decorator
    assert located(evaluated, "build_evaluator") == f"build_evaluator, {__file__}:{line}"


def test_of_seriatims_own_code_no_line_is_suspect(tmp_path):
    context = pipeline(tmp_path, "retinanet")
    assert located(context, "build_mapper, build_evaluator") == "build_mapper, build_evaluator"
    assert located(context, "") == ""


def test_keys_have_their_values(tmp_path):
    context = pipeline(tmp_path, "retinanet", SOLVER__BASE_LR=0.25)
    assert located(context, "SOLVER.BASE_LR; gate lr") == "SOLVER.BASE_LR = 0.25; gate lr"
    assert located(context, "INPUT.FORMAT, the mapper") == "INPUT.FORMAT = BGR, the mapper"
    for said in ("…SCORE_THRESH_TEST", "MODEL", "bbox_mode XYWHA_ABS", "MODEL.NOTHING"):
        assert located(context, said) == said
