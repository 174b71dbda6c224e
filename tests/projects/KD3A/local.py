"""A grid in this process whose answers a test can spoil."""

from __future__ import annotations

from kd3a.local import InProcessGrid


class LocalGrid(InProcessGrid):
    """`spoil` turns an answer into what a broken party sends: a message, or None for nothing."""

    def __init__(self, members, spoil=None):
        super().__init__(members)
        self.spoil = spoil or (lambda name, request, reply: reply)

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.parties:
                name = self.parties[node].introduction.name
                reply = self.spoil(name, message, self._ask(message))
                if reply is not None:
                    yield reply
