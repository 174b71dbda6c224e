"""For the tests of a user's own project: its gates as assertions.

from seriatim.gates.testing import assert_gates

def test_my_pipeline_passes_the_fast_gates(tmp_path):
    assert_gates("configs/mine.yaml", "fast", output=tmp_path)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from seriatim.gates.runner import run
from seriatim.gates.verdict import Status, Verdict


def assert_gates(
    config_file: str | Path,
    only: str | Sequence[str] = "fast",
    *,
    output: str | Path,
    overrides: Sequence[str] = (),
    trainer_class: type | None = None,
) -> list[Verdict]:
    """Run gates on a config and fail with their own words if one of them does.

    Args:
        config_file: as train_net.py takes it.
        only: "all", "fast" or names of gates.
        output: folder for the evidence.
        overrides: KEY, VALUE, … as texts.
        trainer_class: of the project.

    Raises:
        AssertionError: a gate failed.
        InputError: the config or its data is wrong.
    """
    from seriatim.engine.setup import setup

    opts = [*overrides, "OUTPUT_DIR", str(output)]
    cfg = setup(SimpleNamespace(config_file=str(config_file), opts=opts, resume=False))
    verdicts = run(cfg, only, trainer_class=trainer_class)
    failed = [v.paragraph(f"{output}/gates/{v.gate}") for v in verdicts if v.status is Status.FAIL]
    assert not failed, "\n".join(failed)
    return verdicts
