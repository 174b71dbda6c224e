"""A door before a SuperLink that writes down all that goes through it.

It ends the parties' TLS with the SuperLink's certificate and begins one of its own, as whoever has
the coordinator's key could.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections import defaultdict

import h11

_SECONDS = 10.0  # to open and to close


class Recorder:
    """Listens at `port` and passes on to `target`.

    All connections are served by one thread: two that read and write the same TLS connection at
    once break it, and whoever is at its end waits until its own timeout.

    Attributes:
        streams: by connection, what parties sent and what they got.
    """

    def __init__(self, certificates, target: int) -> None:
        self._target = target
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(certificates.certificate, certificates.key)
        self._far = ssl.create_default_context(cafile=certificates.authority)
        self.streams: list[tuple[bytearray, bytearray]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._near))
        self.port = self._server.sockets[0].getsockname()[1]

    def _do(self, task):
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent, got = bytearray(), bytearray()
        self.streams.append((sent, got))
        with contextlib.suppress(OSError), contextlib.closing(writer):
            answers, requests = await asyncio.open_connection(
                "127.0.0.1", self._target, ssl=self._far, server_hostname="127.0.0.1"
            )
            with contextlib.closing(requests):
                await _first_end(_pump(reader, requests, sent), _pump(answers, writer, got))

    def close(self) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def exchanges(self):
        """(path, body of the request, body of the answer) of every exchange that is over."""
        for sent, got in list(self.streams):
            requests = list(_bodies(h11.SERVER, bytes(sent)))
            answers = list(_bodies(h11.CLIENT, bytes(got), [method for method, _, _ in requests]))
            for (_, path, body), (_, _, reply) in zip(requests, answers, strict=False):
                yield path, body, reply


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: bytearray
) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            record += data
            sink.write(data)
            await sink.drain()


async def _first_end(*pumps) -> None:
    """When one side has closed its connection, so is the other's."""
    tasks = [asyncio.ensure_future(pump) for pump in pumps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


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
