"""A stock aioquic HTTP/3 client with a blocking interface: tests call it, its event loop runs in a thread."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

T = TypeVar("T")
TIMEOUT_S = 20.0


@dataclass
class Reply:
    """The result of one request."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None


class _H3(H3Connection):
    """aioquic 1.7.2 closes the connection when the response to HEAD has a Content-Length (RFC 9110 section 8.6)."""

    def _check_content_length(self, stream: Any) -> None:
        if stream.content_length:
            super()._check_content_length(stream)


class _Protocol(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.h3: H3Connection = _H3(self._quic)
        self.replies: dict[int, Reply] = {}
        self.changed = asyncio.Event()
        self.terminated: ConnectionTerminated | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
        elif isinstance(event, StreamReset) and event.stream_id in self.replies:
            self.replies[event.stream_id].reset = event.error_code
        for item in self.h3.handle_event(event):
            if isinstance(item, HeadersReceived | DataReceived) and (reply := self.replies.get(item.stream_id)):
                if isinstance(item, HeadersReceived):
                    fields = {name.decode(): value.decode() for name, value in item.headers}
                    if ":status" in fields:
                        reply.status, reply.headers = int(fields.pop(":status")), fields
                    else:
                        reply.trailers = fields
                else:
                    reply.body += item.data
                reply.ended = item.stream_ended
        self.changed.set()
        self.changed = asyncio.Event()


class H3Client:
    """One connection."""

    def __init__(self, port: int, ca: Path, host: str = "localhost") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._host = host
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_REQUIRED)
        configuration.load_verify_locations(str(ca))
        configuration.server_name = "localhost"
        self._protocol: _Protocol | None = None
        self._closing = asyncio.Event()
        self._task = asyncio.run_coroutine_threadsafe(self._live(port, configuration), self._loop)
        self._wait(lambda: self._protocol is not None or self._task.done())
        if self._protocol is None:
            self._task.result()

    async def _live(self, port: int, configuration: QuicConfiguration) -> None:
        address = "::1" if self._host == "::1" else "127.0.0.1"
        async with connect(address, port, configuration=configuration, create_protocol=_Protocol) as protocol:
            assert isinstance(protocol, _Protocol)
            self._protocol = protocol
            await self._closing.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        try:
            self._task.result(TIMEOUT_S)
        except ConnectionError:
            pass
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    @property
    def protocol(self) -> _Protocol:
        assert self._protocol is not None
        return self._protocol

    @property
    def closed_with(self) -> int | None:
        """The error code of the connection's end."""
        terminated = self.protocol.terminated
        return None if terminated is None else terminated.error_code

    def get(self, path: str, **headers: str) -> Reply:
        """Send a request and wait for the whole response; header names are written with underscores."""
        return self.finish(self.send("GET", path, headers))

    def head(self, path: str) -> Reply:
        return self.finish(self.send("HEAD", path, {}))

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, *, body: bytes = b"", end: bool = True
    ) -> int:
        """Send a request; return its stream."""

        async def go() -> int:
            protocol = self.protocol
            stream = protocol._quic.get_next_available_stream_id()
            fields = [(":method", method), (":scheme", "https"), (":authority", self._host), (":path", path)]
            fields += [(name.replace("_", "-"), value) for name, value in (headers or {}).items()]
            protocol.replies[stream] = Reply()
            protocol.h3.send_headers(
                stream, [(name.encode(), value.encode()) for name, value in fields], end and not body
            )
            if body:
                protocol.h3.send_data(stream, body, end)
            protocol.transmit()
            return stream

        return self.run(go())

    def body(self, stream: int, data: bytes, *, end: bool) -> None:
        async def go() -> None:
            self.protocol.h3.send_data(stream, data, end)
            self.protocol.transmit()

        self.run(go())

    def finish(self, stream: int) -> Reply:
        """Wait until the response is complete or the stream or connection has ended."""
        reply = self.protocol.replies[stream]
        self._wait(lambda: reply.ended or reply.reset is not None or self.protocol.terminated is not None)
        return reply

    def go_deaf(self) -> None:
        """Receive nothing from now on: a client that lost its network."""

        async def go() -> None:
            self.protocol.datagram_received = lambda data, addr: None  # type: ignore[method-assign]

        self.run(go())

    def wait_closed(self) -> int:
        """Wait for the end of the connection; return its error code."""
        self._wait(lambda: self.protocol.terminated is not None)
        assert self.closed_with is not None
        return self.closed_with

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT_S)

    def _wait(self, condition: Any) -> None:
        from tests.support.waiting import poll

        poll(condition, "the HTTP/3 client", TIMEOUT_S)
