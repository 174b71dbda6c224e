"""What crosses between coordinator and parties: weights and scalars, nothing else.

query         to every party; it answers with its name, its role and its number of images
train         to the sources: round and global weights; answer: round, new weights, loss
train.distil  to the target: round, global weights, weights of each source; answer: round, new
              weights, share of the images with a consensus, what each source added to it, and in
              the variant "code" BatchNorm statistics of each source after its votes
evaluate      to every party: round and global weights; answer: round, metrics
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from kd3a.averaging import State

SOURCE, TARGET = "source", "target"
QUERY, TRAIN, DISTIL, EVALUATE = "query", "train", "train.distil", "evaluate"
_WEIGHTS, _CONFIG, _METRICS, _OF_SOURCE = "weights", "config", "metrics", "source."

Scalars = Mapping[str, float | int | list[float]]


@dataclass(frozen=True)
class Introduction:
    """Who a party is.

    Attributes:
        name: of the party, the same whenever it comes back.
        role: `SOURCE` (its labels are used) or `TARGET` (it has none).
        images: how many it trains on.
    """

    name: str
    role: str
    images: int


@dataclass(frozen=True)
class Work:
    """What a message asks for, or what was done about it.

    Attributes:
        round: from 1.
        weights: of the model; empty in answers about evaluation.
        sources: weights of each source by its name, for the target only; in its answer those that
            voting has changed.
        scalars: numbers that steer, or that were measured.
    """

    round: int
    weights: State
    scalars: Scalars
    sources: Mapping[str, State]


def requests(kind: str, nodes: Iterable[int], work: Work) -> list[Message]:
    """The same work for each of `nodes`: packed once, and all messages hold that."""
    content = _pack(work)
    return [Message(content=content, message_type=kind, dst_node_id=node) for node in nodes]


def answer(to: Message, work: Work) -> Message:
    return Message(content=_pack(work), reply_to=to)


def read(message: Message) -> Work:
    """The work in a message. ValueError: it is not of this form."""
    content = message.content
    try:
        number = int(content.config_records[_CONFIG]["round"])
        scalars = dict(content.metric_records[_METRICS])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the message has no {error}") from error
    states = {key: value.to_torch_state_dict() for key, value in content.array_records.items()}
    weights = states.pop(_WEIGHTS, {})
    sources = {key.removeprefix(_OF_SOURCE): state for key, state in states.items()}
    return Work(number, weights, scalars, sources)


def introduce(to: Message, who: Introduction) -> Message:
    config = ConfigRecord({"name": who.name, "role": who.role, "images": who.images})
    return Message(content=RecordDict({_CONFIG: config}), reply_to=to)


def read_introduction(message: Message) -> Introduction:
    """ValueError: the message is no introduction."""
    try:
        config = message.content.config_records[_CONFIG]
        who = Introduction(str(config["name"]), str(config["role"]), int(config["images"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"the introduction has no {error}") from error
    if who.role not in (SOURCE, TARGET):
        raise ValueError(f"the party {who.name} calls itself {who.role!r}")
    return who


def _pack(work: Work) -> RecordDict:
    records = RecordDict(
        {
            _CONFIG: ConfigRecord({"round": work.round}),
            _METRICS: MetricRecord(dict(work.scalars)),
        }
    )
    if work.weights:
        records[_WEIGHTS] = ArrayRecord(dict(work.weights))
    for name, state in work.sources.items():
        records[f"{_OF_SOURCE}{name}"] = ArrayRecord(dict(state))
    return records
