"""A party's side: the same app in a simulation and in a SuperNode of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from kd3a.averaging import State
from kd3a.messages import Introduction, Scalars, Work, answer, introduce, read


class Party(Protocol):
    """What a party can be asked. Its data, labels and optimizer stay with it."""

    introduction: Introduction

    def train(self, work: Work) -> tuple[State, Scalars]:
        """Train from the global weights on own labels for a round; the weights then."""
        ...

    def distil(self, work: Work) -> tuple[State, Scalars, Mapping[str, State]]:
        """Train from the global weights on what the sources agree on; the weights then.

        The scalars hold `coverage`, the share of images with a consensus, and `focus`, what each
        source added to it in the order of `work.sources`. The last are those of the sources'
        tensors that voting has changed, by source.
        """
        ...

    def evaluate(self, work: Work) -> Scalars:
        """Metrics of the global weights on own test images."""
        ...


def build_client_app(find_party: Callable[[Context], Party], mods: Sequence[Mod] = ()) -> ClientApp:
    """The app of whichever party `find_party` finds behind a node's context.

    Args:
        mods: Flower's, around each message: clipping and noise for differential privacy, say.
    """
    app = ClientApp(mods=list(mods))

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return introduce(message, find_party(context).introduction)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        work, party = read(message), find_party(context)
        weights, scalars = party.train(work)
        return _trained(message, party, Work(work.round, weights, scalars, {}))

    @app.train("distil")
    def distil(message: Message, context: Context) -> Message:
        work, party = read(message), find_party(context)
        weights, scalars, sources = party.distil(work)
        return _trained(message, party, Work(work.round, weights, scalars, sources))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        work = read(message)
        return answer(message, Work(work.round, {}, find_party(context).evaluate(work), {}))

    return app


def _trained(message: Message, party: Party, done: Work) -> Message:
    # By this name Flower's own strategies weight an update.
    scalars = {**done.scalars, "num-examples": party.introduction.images}
    return answer(message, replace(done, scalars=scalars))
