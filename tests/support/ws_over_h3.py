"""A WebSocket client over HTTP/3 (RFC 9220) of parts that are not ours: aioquic's connection and wsproto's frames.

async with websocket(node, "/chat") as socket:
    await socket.send("hello"); await socket.receive()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, TextMessage
from wsproto.extensions import PerMessageDeflate


class _Protocol(QuicConnectionProtocol):
    """aioquic's example client, as far as a tunnel needs it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.http = H3Connection(self._quic)
        self.sockets: dict[int, WebSocket] = {}

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, ConnectionTerminated | StreamReset):
            for socket in self.sockets.values():
                socket.fail(event)
        for http in self.http.handle_event(event):
            if isinstance(http, HeadersReceived | DataReceived) and http.stream_id in self.sockets:
                self.sockets[http.stream_id].take(http)


class WebSocket:
    """One tunnel."""

    def __init__(self, protocol: _Protocol, stream: int) -> None:
        self._protocol, self._stream = protocol, stream
        self._frames = Connection(ConnectionType.CLIENT)
        self.headers: dict[bytes, bytes] = {}
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = False
        self._parts: list[Any] = []

    def take(self, event: Any) -> None:
        """An event of the stream."""
        if isinstance(event, HeadersReceived):
            self.headers = dict(event.headers)
            if not self.status.done():
                self.status.set_result(int(self.headers[b":status"]))
        elif self.headers[b":status"] == b"200" and event.data:
            self._frames.receive_data(event.data)
            for frame in self._frames.events():
                self._on_frame(frame)
        if event.stream_ended:
            self.ended = True
            self.events.put_nowait(None)

    def _on_frame(self, frame: Any) -> None:
        if isinstance(frame, Message):
            self._parts.append(frame.data)
            if frame.message_finished:
                whole, self._parts = self._parts, []
                self.events.put_nowait((b"" if isinstance(frame, BytesMessage) else "").join(whole))
        elif isinstance(frame, CloseConnection):
            self.events.put_nowait(frame)

    def fail(self, event: Any) -> None:
        """The stream or the connection ended."""
        if not self.status.done():
            self.status.set_exception(ConnectionError(repr(event)))
        self.events.put_nowait(ConnectionError(repr(event)))

    def send(self, message: str | bytes) -> None:
        """Send a message in one frame."""
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        self.write(self._frames.send(event))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close frame."""
        self.write(self._frames.send(CloseConnection(code=code, reason=reason)))

    def write(self, data: bytes, *, fin: bool = False) -> None:
        """Send bytes of the tunnel."""
        self._protocol.http.send_data(self._stream, data, fin)
        self._protocol.transmit()

    def deflate(self) -> None:
        """Use the extension that the server has accepted (RFC 7692)."""
        extension = PerMessageDeflate()
        extension.finalize(self.headers[b"sec-websocket-extensions"].decode())
        self._frames = Connection(ConnectionType.CLIENT, [extension])

    async def receive(self) -> Any:
        """Return the next message, a `CloseConnection`, or None at the end of the stream."""
        async with asyncio.timeout(10):
            return await self.events.get()


@asynccontextmanager
async def websocket(
    port: int, cafile: Path, path: str, fields: Sequence[tuple[bytes, bytes]] = (), authority: str = "localhost"
) -> AsyncIterator[WebSocket]:
    """Open a tunnel on a connection of its own; `status` tells what became of it."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="localhost")
    configuration.load_verify_locations(str(cafile))
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=_Protocol) as protocol:
        assert isinstance(protocol, _Protocol)
        stream = protocol._quic.get_next_available_stream_id()
        socket = protocol.sockets[stream] = WebSocket(protocol, stream)
        head = [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", b"https"),
            (b":authority", f"{authority}:{port}".encode()),
            (b":path", path.encode()),
            (b"sec-websocket-version", b"13"),
            *fields,
        ]
        protocol.http.send_headers(stream, head)
        protocol.transmit()
        async with asyncio.timeout(10):
            await asyncio.wait([socket.status])
        yield socket
