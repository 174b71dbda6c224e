"""A grid in this process whose answers a test can spoil."""

from __future__ import annotations

from kd3a.local import InProcessGrid


class LocalGrid(InProcessGrid):
    """`spoil` turns an answer into what a broken party sends: a message, or None for nothing;
    `hears` says whether a request comes to a party at all."""

    def __init__(self, members, spoil=None, hears=None):
        super().__init__(members)
        self.hears = hears or (lambda name, request: True)
        self.spoil = spoil or (lambda name, request, reply: reply)

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.parties:
                name = self.parties[node].introduction.name
                if not self.hears(name, message):
                    continue
                reply = self.spoil(name, message, self._ask(message))
                if reply is not None:
                    yield reply
