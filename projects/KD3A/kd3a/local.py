"""A grid of Flower's without a network: the parties are objects of this process.

The same apps, messages and strategies as between hosts, one party after the other, and nothing to
start: for small models, where the simulation engine's processes cost more than the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from kd3a.client_app import Party, build_client_app

FIRST_NODE = 100
FAILED = 20  # the code of an app that raised


class InProcessGrid(Grid):
    """Nodes 100, 101, … behind which `parties` answer when they are asked.

    An exception of a party is an error message, as it is between hosts.

    Args:
        mods: Flower's, around each message at the party's side.
    """

    def __init__(self, parties: Sequence[Party], mods: Sequence[Mod] = ()) -> None:
        self.parties = dict(enumerate(parties, FIRST_NODE))
        self._states = {node: RecordDict() for node in self.parties}
        self._app = build_client_app(lambda context: self.parties[context.node_id], mods)

    def get_node_ids(self) -> list[int]:
        return list(self.parties)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """The replies, each when it is asked for; nobody is late."""
        for message in messages:
            if message.metadata.dst_node_id in self.parties:
                yield self._ask(message)

    def _ask(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        state = self._states.setdefault(node, RecordDict())
        context = Context(run_id=1, node_id=node, node_config={}, state=state, run_config={})
        try:
            return self._app(message, context)
        except Exception as error:
            return Message(Error(FAILED, f"{type(error).__name__}: {error}"), reply_to=message)

    # What Flower's grids can besides, and no strategy here asks for

    def set_run(self, *args: Any) -> NoReturn:
        raise NotImplementedError

    run = property(set_run)
    create_message = push_messages = pull_messages = set_run


@contextmanager
def server_identity() -> Iterator[None]:
    """Be a server to Flower, which addresses messages from the process's identity."""
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
