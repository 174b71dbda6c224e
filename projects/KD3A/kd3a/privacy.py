"""Differential privacy by Flower: updates are clipped, and noise hides what one party adds.

`KD3A.PRIVACY` is "local" (every party clips its update and adds noise, so that not even the
coordinator sees it without; Dwork & Roth 2014) or "central" (parties clip, the coordinator adds
noise to the average; McMahan et al. 2018, arXiv 1710.06963). What is hidden is the update as a
whole: the party is what differs, not one image of it.

Flower's mods know messages with one record of arrays, all of them floats. Here they get just that
of an update: counts stay as they are, and what a target sends of its sources' statistics is clipped
and noised with its weights.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, Strategy

from kd3a.messages import DISTIL, TRAIN
from kd3a.secure import secure_mod

LOCAL, CENTRAL = "local", "central"
MODES = ("", LOCAL, CENTRAL)
# The key by which Flower's mod is told how far to clip. A party goes by its own config.
_CLIPPING = "clipping_norm"


def privacy_mods(cfg: CfgNode) -> list[Mod]:
    """What stands around a party's answers."""
    keys = cfg.KD3A
    secure = [secure_mod] if keys.SECURE_AGGREGATION else []  # around noise and clipping
    match keys.PRIVACY:
        case "local":
            # Two updates within a ball of this radius differ by its diameter at most.
            sensitivity = 2 * keys.CLIPPING_NORM
            mod = LocalDpMod(keys.CLIPPING_NORM, sensitivity, keys.EPSILON, keys.DELTA)
            return [*secure, _OnUpdates(mod, keys.CLIPPING_NORM)]
        case "central":
            return [*secure, _OnUpdates(fixedclipping_mod, keys.CLIPPING_NORM)]
    return secure


def with_privacy(cfg: CfgNode, strategy: Strategy) -> Strategy:
    """What stands around the coordinator's strategy."""
    keys = cfg.KD3A
    if keys.PRIVACY != CENTRAL:
        return strategy
    averaged = [n for n in keys.PARTIES if keys.STRATEGY == "kd3a" or n != keys.TARGET]
    return CentralNoise(strategy, keys.NOISE_MULTIPLIER, keys.CLIPPING_NORM, len(averaged))


class CentralNoise(DifferentialPrivacyClientSideFixedClipping):
    """Flower's wrapper, but that broken answers are for the strategy within to judge and to report.

    Noise of standard deviation NOISE_MULTIPLIER · CLIPPING_NORM / parties is that of an average
    with equal shares. A strategy that gives a party a greater share hides it less.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        floats, others = _split(arrays)
        with _unforeseen():
            noisy = self._add_noise_to_aggregated_arrays(floats)
        return _joined(arrays, _sound(noisy), others), metrics


class _OnUpdates:
    """A mod of Flower's around messages that train, whatever records of arrays they have."""

    def __init__(self, mod: Mod, clipping: float) -> None:
        self._mod, self._clipping = mod, clipping

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type not in (TRAIN, DISTIL) or reply.has_error():
            return reply
        update = {
            f"{record}\n{name}": array
            for record, arrays in reply.content.array_records.items()
            for name, array in arrays.items()
        }
        floats, others = _split(ArrayRecord(update))
        before = {
            key: message.content.array_records[record][name]
            for key in floats
            for record, _, name in [key.partition("\n")]
        }
        given = _with_arrays(message, ArrayRecord(before), {_CLIPPING: self._clipping})
        with _unforeseen():
            changed = self._mod(given, context, lambda *_: _with_arrays(reply, floats, {}))
        if changed.has_error():
            return changed
        (noisy,) = changed.content.array_records.values()
        whole = _joined(update, _sound(noisy), others)
        for record in list(reply.content.array_records):
            reply.content.array_records[record] = ArrayRecord(
                {name: whole[f"{record}\n{name}"] for name in reply.content.array_records[record]}
            )
        return reply


def _with_arrays(message: Message, arrays: ArrayRecord, config: dict[str, Any]) -> Message:
    """The message with other content: these arrays alone."""
    other = copy.copy(message)
    other.content = RecordDict({"weights": arrays, "config": ConfigRecord(config)})
    return other


def _split(arrays: ArrayRecord) -> tuple[ArrayRecord, dict[str, Array]]:
    """The arrays of floats, and the others."""
    floats = {name: a for name, a in arrays.items() if a.numpy().dtype.kind == "f"}
    return ArrayRecord(floats), {n: a for n, a in arrays.items() if n not in floats}


def _joined(order: Iterable[str], floats: ArrayRecord, others: dict[str, Array]) -> ArrayRecord:
    return ArrayRecord({n: others[n] if n in others else floats[n] for n in order})


def _sound(arrays: ArrayRecord) -> ArrayRecord:
    """Variances that noise made negative become 0: that uses nothing but what is noised already."""
    return ArrayRecord(
        {
            name: Array(np.maximum(array.numpy(), 0)) if name.endswith("running_var") else array
            for name, array in arrays.items()
        }
    )


@contextmanager
def _unforeseen() -> Iterator[None]:
    """Flower's noise is of NumPy's global generator, which training seeds by a number that others
    know. Within, it is seeded by the system."""
    before = np.random.get_state()
    seed = np.frombuffer(os.urandom(624 * 4), np.uint32)
    np.random.set_state(("MT19937", seed, 624))
    try:
        yield
    finally:
        np.random.set_state(before)
