"""The ordered gates: each asks a pipeline one question before training starts.

    from seriatim import gates
    verdicts = gates.run(cfg, only="fast")

`python -m seriatim.gates --config-file FILE` does the same; docs/order.md says what each asks, why
in this order, and how a model tells more of itself.
"""

from __future__ import annotations

from seriatim.gates.runner import ORDER, require, run
from seriatim.gates.verdict import Cause, Finding, Status, Verdict

__all__ = ["ORDER", "Cause", "Finding", "Status", "Verdict", "require", "run"]
