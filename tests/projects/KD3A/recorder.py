"""A door before a SuperLink that writes down all that goes through it.

It ends the parties' TLS with the SuperLink's certificate and begins one of its own, as whoever has
the coordinator's key could.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import defaultdict

import h11


class Recorder:
    """Listens at `port` and passes on to `target`.

    Attributes:
        streams: by connection, what parties sent and what they got.
    """

    def __init__(self, certificates, target: int) -> None:
        self._target = target
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.load_cert_chain(certificates.certificate, certificates.key)
        self._client = ssl.create_default_context(cafile=certificates.authority)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.streams: list[tuple[bytearray, bytearray]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                party, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(party,), daemon=True).start()

    def _connect(self, party: socket.socket) -> None:
        with contextlib.suppress(OSError):
            near = self._server.wrap_socket(party, server_side=True)
            far = self._client.wrap_socket(
                socket.create_connection(("127.0.0.1", self._target)), server_hostname="127.0.0.1"
            )
            sent, got = bytearray(), bytearray()
            self.streams.append((sent, got))
            threading.Thread(target=_pump, args=(near, far, sent), daemon=True).start()
            _pump(far, near, got)

    def close(self) -> None:
        self._listener.close()

    def exchanges(self):
        """(path, body of the request, body of the answer) of every exchange that is over."""
        for sent, got in list(self.streams):
            requests = list(_bodies(h11.SERVER, bytes(sent)))
            answers = list(_bodies(h11.CLIENT, bytes(got), [method for method, _, _ in requests]))
            for (_, path, body), (_, _, reply) in zip(requests, answers, strict=False):
                yield path, body, reply


def _pump(source: ssl.SSLSocket, sink: ssl.SSLSocket, record: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            record += data
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _bodies(role, stream: bytes, methods=()):
    """(method, path, body) of the messages in a stream of HTTP/1.1."""
    position = 0
    methods = iter(methods)
    while position < len(stream):
        connection = h11.Connection(role, max_incomplete_event_size=1 << 30)
        if role is h11.CLIENT:
            method = next(methods)
            connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
            connection.send(h11.EndOfMessage())
        connection.receive_data(stream[position:])
        head, body = None, b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request | h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif event in (h11.NEED_DATA, h11.PAUSED):
                return
        rest = connection.trailing_data[0]
        position = len(stream) - len(rest)
        request = isinstance(head, h11.Request)
        yield (head.method, head.target.decode(), body) if request else ("", "", body)


def objects(recorder: Recorder):
    """Contents of all objects that crossed, by who sent them: "party" or "coordinator"."""
    from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest

    found = defaultdict(list)
    for path, body, reply in recorder.exchanges():
        if path.endswith("push-object"):
            found["party"].append(PushObjectRequest.FromString(body).object_content)
        elif path.endswith("pull-object"):
            found["coordinator"].append(PullObjectResponse.FromString(reply).object_content)
    return found
