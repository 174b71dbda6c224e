"""A grid of Flower's without a network: the parties are objects of this process."""

from __future__ import annotations

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid
from kd3a.client_app import build_client_app


class LocalGrid(Grid):
    """Nodes 100, 101 … of this process. `spoil` turns an answer into what a broken party sends."""

    def __init__(self, members, spoil=None):
        self.members = dict(enumerate(members, 100))
        self.spoil = spoil or (lambda name, request, reply: reply)

    def get_node_ids(self):
        return list(self.members)

    def send_and_receive(self, messages, *, timeout=None):
        app = build_client_app(lambda context: self.members[context.node_id])
        for message in messages:
            node = message.metadata.dst_node_id
            if node not in self.members:
                continue
            context = Context(
                run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={}
            )
            try:
                reply = app(message, context)
            except RuntimeError as error:
                reply = Message(Error(0, str(error)), reply_to=message)
            reply = self.spoil(self.members[node].introduction.name, message, reply)
            if reply is not None:
                yield reply

    def set_run(self, run):
        raise NotImplementedError

    run = property(set_run)
    create_message = get_nodes = push_messages = pull_messages = set_run
