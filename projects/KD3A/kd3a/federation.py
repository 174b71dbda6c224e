"""The coordinator: rounds of a federation, whose faults it names and whose progress it keeps.

`Federation` is a Flower strategy. It knows parties by name, not by node, so that one that dies and
comes back under another node is the same party; uses no update that is not valid, whole and of this
round; and saves what it knows after every round, so that it can be killed and started again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dataset_tools.errors import InputError
from dataset_tools.files import write_text
from kd3a.averaging import State, average, check_like
from kd3a.messages import (
    EVALUATE,
    QUERY,
    SOURCE,
    TARGET,
    TRAIN,
    Introduction,
    Scalars,
    Work,
    read,
    read_introduction,
    requests,
)
from seriatim.engine.checkpointer import save_atomically

logger = logging.getLogger(__name__)

CHECKPOINT, HISTORY = "federation.pth", "rounds.jsonl"


@dataclass(frozen=True)
class Fault:
    """What went wrong with a party, which the round went on without."""

    round: int
    party: str
    what: str

    def __str__(self) -> str:
        return f"round {self.round}: {self.party}: {self.what}"


@dataclass(frozen=True)
class Update:
    """A valid answer to a round.

    Attributes:
        sources: of the target: those of the sources' tensors that voting has changed.
        message: what it came in.
    """

    weights: State
    scalars: Scalars
    images: int
    message: Message
    sources: Mapping[str, State] = field(default_factory=dict)


@dataclass
class Progress:
    """What a coordinator that was killed needs to go on.

    Attributes:
        round: the last one that is done; 0 before the first.
        weights: the global model after it.
        shares: by party, its share in the average.
    """

    round: int
    weights: dict[str, Tensor]
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How a federation is run.

    Attributes:
        parties: names of all parties; the first round waits for all of them.
        folder: where the coordinator keeps its checkpoint and its history.
        deadline: seconds that parties have for their part of a round.
        fewest_sources: a round with fewer valid updates ends the run.
        evaluate_every: rounds between evaluations; the last round always has one.
    """

    parties: Sequence[str]
    folder: Path
    deadline: float = 3600.0
    fewest_sources: int = 1
    evaluate_every: int = 1


class Federation(Strategy):
    """Every source trains from the global weights; their average is the new global model (FedAvg).

    McMahan et al. 2017, arXiv 1602.05629: shares by number of images. Subclasses change `shares`,
    `combine` or `after_training`.

    Attributes:
        faults: all that went wrong with parties so far.
        progress: the state after the last round.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults: list[Fault] = []
        self.progress = Progress(0, {})
        self.measured: dict[str, Scalars] = {}  # by the parties in training, in the last round
        self.grid: Grid | None = None
        self._board: SummaryWriter | None = None
        self._nodes: dict[int, Introduction] = {}
        self._unmet: dict[int, str] = {}  # why a node could not introduce itself
        self._dismissed: set[int] = set()  # nodes of strangers, and those that a party has left

    # What a subclass can change

    def scalars(self) -> Scalars:
        """Numbers that go to the sources with each round."""
        return {}

    def shares(self, updates: Mapping[str, Update]) -> dict[str, float]:
        """By party, its share in the average."""
        total = sum(update.images for update in updates.values())
        return {name: update.images / total for name, update in updates.items()}

    def combine(self, round_: int, updates: Mapping[str, Update]) -> State:
        """The new global weights; sets `progress.shares`."""
        self.progress.shares = self.shares(updates)
        weights = [self.progress.shares[name] for name in updates]
        states = [update.weights for update in updates.values()]
        return average(states, torch.tensor(weights, dtype=torch.float64))

    # A round, by Flower's names for its parts

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Any = None,
    ) -> Result:
        """`run_rounds` of this strategy alone; `settings` says what other arguments would."""
        del timeout, train_config, evaluate_config, evaluate_fn
        return run_rounds(self, self, grid, initial_arrays, num_rounds)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.grid, self.measured = grid, {}
        self.meet()
        work = Work(server_round, arrays.to_torch_state_dict(), self.scalars(), {})
        return requests(TRAIN, [node for node, _ in self.present(SOURCE)], work)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new global weights and the shares of parties.

        Raises:
            InputError: too few valid updates.
        """
        asked = [who.name for _, who in self.present(SOURCE)]
        updates = self.accept(server_round, asked, replies)
        if len(updates) < self.settings.fewest_sources:
            said = "; ".join(str(fault) for fault in self.faults if fault.round == server_round)
            raise InputError(
                f"Round {server_round} has {len(updates)} valid updates of sources, and needs"
                f" {self.settings.fewest_sources}: {said or 'no source is here'}. What was reached"
                " is saved: mend the parties and start the coordinator again."
            )
        weights = self.combine(server_round, updates)
        return ArrayRecord(dict(weights)), MetricRecord(dict(self.progress.shares))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        work = Work(server_round, arrays.to_torch_state_dict(), {}, {})
        return requests(EVALUATE, [node for node, _ in self.present(SOURCE, TARGET)], work)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The metrics of every party as PARTY/METRIC."""
        asked = [who.name for _, who in self.present(SOURCE, TARGET)]
        answers = self.accept(server_round, asked, replies, with_weights=False)
        return MetricRecord(
            {f"{n}/{k}": float(v) for n, u in answers.items() for k, v in u.scalars.items()}
        )

    def summary(self) -> None:
        logger.info(f"{type(self).__name__} over {', '.join(self.settings.parties)}")

    # Parties

    def present(self, *roles: str) -> list[tuple[int, Introduction]]:
        """Nodes of the parties with one of the roles, in the order of their names."""
        found = [(node, who) for node, who in self._nodes.items() if who.role in roles]
        return sorted(found, key=lambda item: item[1].name)

    def wait_for_all(self) -> None:
        """Return when all parties of `settings` are here.

        Raises:
            InputError: some do not come before the deadline.
        """
        end = time.monotonic() + self.settings.deadline
        while True:
            self.meet()
            missing = set(self.settings.parties) - {who.name for who in self._nodes.values()}
            if not missing:
                return
            if time.monotonic() > end:
                said = "".join(f" A node said: {reason}" for reason in self._unmet.values())
                raise InputError(
                    f"The parties {', '.join(sorted(missing))} have not come within"
                    f" {self.settings.deadline:.0f} s. Check that their processes run and can reach"
                    f" the coordinator.{said}"
                )
            time.sleep(0.2)

    def meet(self) -> None:
        """Ask nodes that are new for their names; forget those that are gone."""
        here = set(self.grid.get_node_ids())
        self._nodes = {node: who for node, who in self._nodes.items() if node in here}
        self._dismissed &= here
        new = sorted(here - self._nodes.keys() - self._dismissed)
        messages = [Message(RecordDict(), dst_node_id=n, message_type=QUERY) for n in new]
        for reply in self.ask(messages):
            node = reply.metadata.src_node_id
            if reply.has_error():
                self._unmet[node] = reply.error.reason  # it is asked again before the next round
                continue
            self._unmet.pop(node, None)
            try:
                self._welcome(node, read_introduction(reply))
            except ValueError as error:
                self._dismissed.add(node)
                self.fault(self.progress.round, f"node {node}", str(error))

    def _welcome(self, node: int, who: Introduction) -> None:
        if who.name not in self.settings.parties:
            raise ValueError(
                f"{who.name} is none of the parties {', '.join(self.settings.parties)}"
            )
        # A party that came back has a new node. For a minute its old one still seems to be here:
        # whoever asked that would wait in vain.
        left = {n for n, known in self._nodes.items() if known.name == who.name}
        self._dismissed |= left
        self._nodes = {n: known for n, known in self._nodes.items() if n not in left} | {node: who}

    def ask(self, messages: Sequence[Message]) -> Iterable[Message]:
        """The replies of parties that come before the deadline.

        For a node that it has lost, Flower's SuperLink answers itself, in its own name: that is no
        reply of anyone.
        """
        if not messages:
            return []
        asked = {message.metadata.dst_node_id for message in messages}
        replies = self.grid.send_and_receive(messages, timeout=self.settings.deadline)
        return (reply for reply in replies if reply.metadata.src_node_id in asked)

    def accept(
        self,
        number: int,
        asked: Iterable[str],
        replies: Iterable[Message],
        with_weights: bool = True,
    ) -> dict[str, Update]:
        """The valid replies by party, in the order of names. Of all others a fault is told."""
        answers: dict[str, Update] = {}
        silent = set(asked)
        for message in replies:
            who = self._nodes[message.metadata.src_node_id]
            silent.discard(who.name)
            try:
                answers[who.name] = self._valid(message, who, number, with_weights)
            except ValueError as error:
                self.fault(number, who.name, str(error))
        for name in sorted(silent):
            waited = f"{self.settings.deadline:.0f} s"
            self.fault(number, name, f"no answer within {waited}, or its node is lost")
        if with_weights:
            self.measured |= {name: update.scalars for name, update in answers.items()}
        return dict(sorted(answers.items()))

    def _valid(
        self, message: Message, who: Introduction, number: int, with_weights: bool
    ) -> Update:
        if message.has_error():
            raise ValueError(f"failed: {message.error.reason}")
        work = read(message)
        if work.round != number:
            raise ValueError(f"sent an update of round {work.round}")
        if with_weights:
            check_like(work.weights, self.progress.weights, "its update")
        for name, changed in work.sources.items():
            known = {key: v for key, v in self.progress.weights.items() if key in changed}
            check_like(changed, known, f"what voting made of {name}")
        return Update(work.weights, work.scalars, who.images, message, work.sources)

    def fault(self, number: int, party: str, what: str) -> None:
        self.faults.append(Fault(number, party, what))
        logger.warning(f"The federation goes on without: {self.faults[-1]}")

    # What is kept

    def keep(self, number: int, arrays: ArrayRecord) -> None:
        """Save the outcome of a round."""
        self.progress = Progress(number, arrays.to_torch_state_dict(), self.progress.shares)
        save_atomically(
            self.settings.folder / CHECKPOINT,
            {"round": number, "weights": self.progress.weights, "shares": self.progress.shares},
        )

    def recall(self) -> Progress | None:
        """What was saved last."""
        path = self.settings.folder / CHECKPOINT
        if not path.exists():
            return None
        progress = Progress(**torch.load(path, weights_only=True))
        logger.info(f"{path}: going on after round {progress.round}")
        return progress

    def tell(self, number: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Add the round to the history, from which rounds that are done again are taken out."""
        line = {
            "round": number,
            "seconds": round(seconds, 3),
            "shares": self.progress.shares,
            "parties": {name: dict(scalars) for name, scalars in sorted(self.measured.items())},
            "metrics": dict(metrics),
            "faults": [
                {"party": f.party, "what": f.what} for f in self.faults if f.round == number
            ],
        }
        path = self.settings.folder / HISTORY
        before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [text for text in before if json.loads(text)["round"] < number]
        write_text(path, "\n".join([*kept, json.dumps(line)]) + "\n")
        self._show(number, line)
        logger.info(f"round {number}: {_first_of_each(metrics)}")

    def _show(self, number: int, line: Mapping[str, Any]) -> None:
        """Show a line of the history in TensorBoard, a curve a party."""
        if self._board is None:
            # What rounds that are done again had told is taken back.
            self._board = SummaryWriter(str(self.settings.folder), purge_step=number)
        add = self._board.add_scalar
        for party, share in line["shares"].items():
            add(f"share/{party}", share, number)
        for party, scalars in line["parties"].items():
            for name, value in scalars.items():
                if isinstance(value, int | float):
                    add(f"{name}/{party}", value, number)
        for key, value in line["metrics"].items():
            party, _, name = key.partition("/")
            add(f"{name}/{party}", value, number)
        add("faults", len(line["faults"]), number)
        self._board.flush()


def run_rounds(
    strategy: Strategy,
    federation: Federation,
    grid: Grid,
    initial: ArrayRecord,
    rounds: int,
) -> Result:
    """What is left of `rounds` rounds, from the federation's checkpoint where there is one.

    Args:
        strategy: the federation itself, or a strategy of Flower's around it, which adds noise for
            differential privacy, say.

    Raises:
        InputError: parties do not come, or too few updates of a round are valid.
    """
    federation.grid = grid
    federation.progress = federation.recall() or Progress(0, initial.to_torch_state_dict())
    federation.wait_for_all()
    result = Result()
    for number in range(federation.progress.round + 1, rounds + 1):
        start = time.perf_counter()
        arrays = ArrayRecord(federation.progress.weights)
        work = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(number, federation.ask(list(work)))
        federation.keep(number, arrays)
        metrics = MetricRecord()
        if number % federation.settings.evaluate_every == 0 or number == rounds:
            work = strategy.configure_evaluate(number, arrays, ConfigRecord(), grid)
            metrics = strategy.aggregate_evaluate(number, federation.ask(list(work)))
        federation.tell(number, metrics, time.perf_counter() - start)
        result.evaluate_metrics_clientapp[number] = metrics
    result.arrays = ArrayRecord(federation.progress.weights)
    return result


def _first_of_each(metrics: Mapping[str, float]) -> str:
    """Of each party the metric that it names first."""
    found: dict[str, str] = {}
    for key, value in metrics.items():
        party, _, name = key.partition("/")
        found.setdefault(party, f"{party} {name} {value:.4g}")
    return ", ".join(found.values())
