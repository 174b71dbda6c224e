"""True averages in BatchNorm before evaluation."""

from __future__ import annotations

from detectron2.engine import hooks

from seriatim.engine.state import preserve_plain_state, preserve_rng


class PreciseBatchNorm(hooks.PreciseBN):
    """Detectron2's PreciseBN, always on the same batches; training goes on as if without it."""

    def update_stats(self) -> None:
        if self._disabled:
            return
        self._data_iter = None
        with preserve_rng(), preserve_plain_state(self._model):
            super().update_stats()
