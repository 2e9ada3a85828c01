"""The native engine with upstreams: clients and time are simulated (engine_driver.py), upstreams are real sockets.

    with Upstream(script) as upstream, forwarding(upstream) as world:
        response = world.get("/")
        assert world.ended().outcome == Outcome.COMPLETE

*script* is called with each accepted connection, in a thread of its own. Virtual time goes on only by `pass_time`, and
by what the packets between client and engine need.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.engine_driver import Response, StockClient, World
from velocity_edge.http.requests import BodyReceived, Event, EventKind, RequestReceived, UpstreamEnded
from velocity_edge.http.upstreams import Forwarding, ForwardRequest, PoolCounts, PoolSettings, SocketAddress

PATIENCE_S = 25.0
Script = Callable[[socket.socket], None]


class Upstream:
    """A server that does what a script says, on TCP or on a unix socket."""

    def __init__(self, script: Script, path: Path | None = None, host: str = "127.0.0.1") -> None:
        family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family)
        self.listener.bind(str(path) if path else (host, 0))
        self.listener.listen(64)
        self.address: SocketAddress = str(path) if path else self.listener.getsockname()[:2]
        self.connections: list[socket.socket] = []
        self.received: list[bytes] = []
        self.errors: list[BaseException] = []
        self._script = script
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Upstream:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for connection in self.connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE_S)
            self.connections.append(connection)
            thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            self._script(connection)
        except OSError:
            pass
        except BaseException as error:
            self.errors.append(error)


def read_head(connection: socket.socket) -> bytes:
    """Return a head with its empty line, and not one byte more; b"" at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def read_body(connection: socket.socket, head: bytes) -> bytes:
    """Return the body of the request with this head."""
    lines = head.lower().split(b"\r\n")
    lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
    if lengths:
        return read_exactly(connection, lengths[0])
    body = b""
    while b"transfer-encoding: chunked" in lines:
        size = b""
        while not size.endswith(b"\r\n"):
            size += read_exactly(connection, 1)
        if int(size, 16) == 0:
            while read_line(connection) != b"\r\n":
                pass
            break
        body += read_exactly(connection, int(size, 16))
        assert read_exactly(connection, 2) == b"\r\n"
    return body


def read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        line += read_exactly(connection, 1)
    return line


def read_exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise OSError("the connection ended")
        data += piece
    return data


def answers(*responses: bytes, heads: list[bytes] | None = None) -> Script:
    """A script that reads a request and sends the next of these, on one connection after another too."""
    left = iter(responses * 1000 if len(responses) == 1 else responses)

    def script(connection: socket.socket) -> None:
        while head := read_head(connection):
            if heads is not None:
                heads.append(head)
            read_body(connection, head)
            connection.sendall(next(left))

    return script


def closes_after(response: bytes, *, reset: bool = False) -> Script:
    """A script that reads a request's head, sends this and closes."""

    def script(connection: socket.socket) -> None:
        read_head(connection)
        if response:
            connection.sendall(response)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        else:
            connection.shutdown(socket.SHUT_RDWR)

    return script


class UpstreamWorld(World):
    """A world whose engine forwards each request to one pool."""

    def __init__(
        self,
        addresses: Sequence[SocketAddress],
        settings: PoolSettings | None = None,
        *,
        request: Callable[[RequestReceived], ForwardRequest] | None = None,
        **options: Any,
    ) -> None:
        super().__init__("native", **options)
        self.forwarding: Forwarding = self.engine.forwarding()  # type: ignore[attr-defined]
        self.pool = self.forwarding.open(settings or PoolSettings())
        self.forwarding.use_addresses(self.pool, addresses)
        self.ends: list[UpstreamEnded] = []
        self.order: list[Event] = []
        self.turns = 0
        self.refused: list[int] = []
        self.make_request = request or forward_request
        #: Whether an attempt that failed without a head is answered with 502, as a proxy does.
        self.answer_failures = True
        self.app.handler = self.forward
        handle = self.app.handle

        def handle_all(events: Iterable[Event]) -> None:
            for event in list(events):
                self.order.append(event)
                if event.kind == EventKind.UPSTREAM_ENDED:
                    assert isinstance(event, UpstreamEnded)
                    self.ends.append(event)
                    if not event.head_sent and self.answer_failures:
                        self.engine.respond(event.stream, 502, [], b"failed")
                elif event.kind == EventKind.BODY_RECEIVED:  # it came in one turn with the request
                    assert isinstance(event, BodyReceived)
                    self.forwarding.feed(event.stream, event.data, event.fin, event.trailers)
                else:
                    handle([event])

        self.app.handle = handle_all  # type: ignore[method-assign]

    def forward(self, request: RequestReceived) -> None:
        if not self.forwarding.forward(self.pool, request.stream, self.make_request(request)):
            self.refused.append(request.stream)

    def until(self, condition: Callable[[], bool], why: str = "") -> None:
        """Let upstreams and packets go on, in real time, until the condition holds."""
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s, why or "it did not happen"
            if select.select([self.forwarding], [], [], 0.002)[0]:
                self.turn()
            self.run(seconds=0.03)

    def turn(self) -> None:
        self.turns += 1
        self.app.handle(self.forwarding.turn(self.now_ns))

    def pass_time(self, seconds: float) -> None:
        """Let virtual time pass; upstreams' time-outs act at its end."""
        self.run(seconds=seconds)
        self.now_ns += 1
        self.turn()
        self.run(seconds=0.03)

    def client(self, **options: Any) -> StockClient:
        return self.ready(**options)

    def get(self, path: str = "/", method: str = "GET", body: bytes | None = None, **fields: str) -> Response:
        """Return a complete response."""
        client = self.ready()
        response = client.request(
            method, path, body=body, headers=[(k.replace("_", "-").encode(), v.encode()) for k, v in fields.items()]
        )
        self.until(lambda: response.over)
        return response

    def ended(self) -> UpstreamEnded:
        """Return the end of the only attempt."""
        self.until(lambda: len(self.ends) > 0, "no UpstreamEnded")
        assert len(self.ends) == 1
        return self.ends[0]

    def counts(self) -> PoolCounts:
        return self.forwarding.counts(self.pool)


def forward_request(request: RequestReceived) -> ForwardRequest:
    return ForwardRequest(request.method, request.path, request.authority, request.headers)


def edited(**changes: Any) -> Callable[[RequestReceived], ForwardRequest]:
    return lambda request: replace(forward_request(request), **changes)


@contextlib.contextmanager
def forwarding(*upstreams: Upstream, settings: PoolSettings | None = None, **options: Any) -> Iterator[UpstreamWorld]:
    world = UpstreamWorld([upstream.address for upstream in upstreams], settings, **options)
    yield world
    world.forwarding.close(world.pool)  # idle connections now: scripts see the end
    for upstream in upstreams:
        assert upstream.errors == []
    world.close()
