"""Secure aggregation: the coordinator learns the average of updates, and none of them alone.

SecAgg+ (Bell et al. 2020) as Flower has it: parties agree on masks that cancel in the sum, and add
them to their weights, made integers; a round takes four exchanges. Shares are by number of images:
it is for FedAvg. Flower's protocol has arrays without names, so that names travel beside them.

What the coordinator cannot see it cannot check: a party checks its own update, and one that lies
spoils the average.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.compat.common import recorddict_compat as compat
from flwr.compat.common.parameter import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.typing import Code, FitIns, FitRes, Parameters, Status
from flwr.server.compat import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid

from dataset_tools.errors import InputError
from kd3a.averaging import State, check_like
from kd3a.federation import Federation, Settings
from kd3a.messages import SOURCE, TRAIN, Introduction, Work, answer, read

# Of a party's secrets, those that others must have kept for its masks to be taken off.
_THRESHOLD = 0.5
_NAMES, _ROUND = "names", "round"


def secure_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A party's side: Flower's mod around the update of a party that knows nothing of masks."""

    def train(message: Message, context: Context) -> Message:
        given = compat.recorddict_to_fitins(message.content, keep_input=True)
        names = str(given.config[_NAMES]).split("\n")
        work = Work(int(given.config[_ROUND]), _state(names, given.parameters), {}, {})
        plain = copy.copy(message)
        plain.content = answer(message, work).content
        reply = call_next(plain, context)
        if reply.has_error():
            raise RuntimeError(reply.error.reason)
        done = read(reply)
        update = {name: done.weights[name] for name in names}
        check_like(update, work.weights, "the own update")  # nobody else can
        result = FitRes(
            Status(Code.OK, ""),
            ndarrays_to_parameters([value.numpy() for value in update.values()]),
            int(done.scalars["num-examples"]),
            {"loss": float(done.scalars.get("loss", 0.0))},
        )
        masked = copy.copy(reply)
        masked.content = compat.fitres_to_recorddict(result, keep_input=True)
        return masked

    if message.metadata.message_type != TRAIN:
        return call_next(message, context)
    return secaggplus_mod(_of_its_own(message), context, train)


def _of_its_own(message: Message) -> Message:
    """Flower's mod takes the stage out of the message, which others may have as well."""
    own = copy.copy(message)
    own.content = RecordDict(
        {
            key: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
            for key, record in message.content.items()
        }
    )
    return own


class SecureFedAvg(Federation):
    """FedAvg whose coordinator sees the average alone.

    Args:
        reach: weights beyond -reach and reach are cut off when they are made integers.
    """

    def __init__(self, settings: Settings, reach: float) -> None:
        super().__init__(settings)
        self._reach = reach

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.grid = grid
        self.meet()
        return []  # the protocol has messages of its own

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        sources = self.present(SOURCE)
        floats = {n: v for n, v in self.progress.weights.items() if v.is_floating_point()}
        exchange = _Exchange(list(floats), server_round, sources)
        workflow = SecAggPlusWorkflow(
            1.0,
            _THRESHOLD,
            max_weight=float(max((who.images for _, who in sources), default=1)),
            clipping_range=self._reach,
            timeout=self.settings.deadline,
        )
        workflow(_Told(self, server_round), _context(exchange, floats, server_round))
        if exchange.average is None:
            said = "; ".join(str(f) for f in self.faults if f.round == server_round)
            raise InputError(
                f"Round {server_round}: too few sources for a secure sum:"
                f" {said or f'{len(sources)} are here'}. What was reached is saved: mend the"
                " parties and start the coordinator again."
            )
        average = _state(list(floats), exchange.average)
        check_like(average, floats, "the secure average")
        total = sum(exchange.images.values())
        self.progress.shares = {name: n / total for name, n in sorted(exchange.images.items())}
        self.measured = exchange.losses
        # Counts are no part of a sum of floats: those of before stay.
        weights = {name: average.get(name, v) for name, v in self.progress.weights.items()}
        return ArrayRecord(weights), MetricRecord(dict(self.progress.shares))


class _Exchange:
    """What Flower's protocol asks of a strategy: whom to send what, and to take the average."""

    def __init__(
        self, names: Sequence[str], number: int, sources: Sequence[tuple[int, Introduction]]
    ) -> None:
        self._config = {_NAMES: "\n".join(names), _ROUND: number}
        self._parties = {node: who.name for node, who in sources}
        self.average: Parameters | None = None
        self.images: dict[str, int] = {}
        self.losses: dict[str, dict[str, float]] = {}

    def configure_fit(self, number: int, parameters: Parameters, _: Any) -> list[Any]:
        work = FitIns(parameters, self._config)
        return [(SimpleNamespace(node_id=node), work) for node in self._parties]

    def aggregate_fit(
        self, number: int, results: Sequence[tuple[Any, FitRes]], failures: Any
    ) -> tuple[Parameters, dict[str, Any]]:
        for proxy, result in results:
            name = self._parties[proxy.node_id]
            self.images[name] = result.num_examples
            self.losses[name] = dict(result.metrics)
            self.average = result.parameters  # the same of all
        return self.average, {}


class _Told(Grid):
    """A federation's grid, whose silent and broken nodes are told as faults, each once."""

    def __init__(self, federation: Federation, number: int) -> None:
        self._federation, self._number = federation, number
        self._told: set[str] = set()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        asked = list(messages)
        replies = list(self._federation.ask(asked))
        names = {node: who.name for node, who in self._federation.present(SOURCE)}
        what = {names[m.metadata.dst_node_id]: "no answer in time" for m in asked}
        for reply in replies:
            name = names[reply.metadata.src_node_id]
            what[name] = f"failed: {reply.error.reason}" if reply.has_error() else ""
        for name, said in what.items():
            if said and name not in self._told:
                self._told.add(name)
                self._federation.fault(self._number, name, said)
        return replies

    def _of_grid(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("the protocol only sends and receives")

    set_run = create_message = get_node_ids = get_nodes = push_messages = pull_messages = _of_grid
    run = property(_of_grid)


def _context(exchange: _Exchange, floats: State, number: int) -> LegacyContext:
    state = RecordDict(
        {
            MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: number}),
            MAIN_PARAMS_RECORD: ArrayRecord([value.numpy() for value in floats.values()]),
        }
    )
    empty = Context(run_id=0, node_id=0, node_config={}, state=state, run_config={})
    manager = SimpleNamespace(num_available=lambda: len(exchange._parties))
    return LegacyContext(empty, strategy=exchange, client_manager=manager)


def _state(names: Sequence[str], parameters: Parameters) -> dict[str, torch.Tensor]:
    arrays = parameters_to_ndarrays(parameters)
    return {name: torch.from_numpy(a.copy()).float() for name, a in zip(names, arrays, strict=True)}
