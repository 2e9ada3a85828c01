"""An HTTP/3 client that sends what it is told: field sections and bodies by hand, on aioquic's QUIC.

`Client.ask` sends one request on a stream of its own and returns what came back, also a reset or the end of the
connection. It opens another connection when the one before was closed. It checks nothing: cases.py and smuggling.py do.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StopSendingReceived, StreamReset

from tests.support.h3_bytes import Field, frame, headers

#: A subject that answers nothing for so long is counted as silent.
PATIENCE_S = 5.0


@dataclass
class Reply:
    """What came back on one stream."""

    status: int = 0
    fields: list[Field] = field(default_factory=list)
    body: bytes = b""
    informational: list[int] = field(default_factory=list)
    trailers: list[Field] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    closed: int | None = None

    @property
    def refused(self) -> bool:
        """The request got no answer but an error: of its stream, its connection, or a 4xx or 501."""
        return self.reset is not None or self.closed is not None or 400 <= self.status < 500 or self.status == 501

    def get(self, name: str) -> str | None:
        """Return a field of the final response, lines joined by ", "."""
        values = [value.decode("latin-1") for key, value in self.fields if key == name.encode()]
        return ", ".join(values) if values else None

    def said(self) -> str:
        """Return it in a few words, for the table."""
        if self.status and not self.ended and (self.reset is not None or self.closed is not None):
            return f"{self.status}, then cut"
        if self.status:
            return str(self.status)
        if self.reset is not None:
            return f"reset {self.reset:#x}"
        return "no answer" if self.closed is None else f"closed {self.closed:#x}"


class _Http(H3Connection):
    """aioquic compares the length of a body with Content-Length also for HEAD; cases do that themselves."""

    def _check_content_length(self, stream: Any) -> None:
        pass


class _Protocol(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = _Http(self._quic)
        self.replies: dict[int, Reply] = {}
        self.closed: int | None = None
        self.changed = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.closed = event.error_code
            for reply in self.replies.values():
                if not reply.ended:
                    reply.closed = event.error_code
        elif isinstance(event, StreamReset) and event.stream_id in self.replies:
            self.replies[event.stream_id].reset = event.error_code
        elif isinstance(event, StopSendingReceived):
            pass  # an answer follows, or a reset
        for item in self.http.handle_event(event):
            reply = self.replies.get(getattr(item, "stream_id", -1))
            if reply is None:
                continue
            if isinstance(item, HeadersReceived):
                fields = dict(item.headers)
                status = int(fields.get(b":status", b"0"))
                if b":status" not in fields:
                    reply.trailers = item.headers
                elif status < 200:
                    reply.informational.append(status)
                else:
                    reply.status = status
                    reply.fields = [line for line in item.headers if line[0][:1] != b":"]
                reply.ended = item.stream_ended
            elif isinstance(item, DataReceived):
                reply.body += item.data
                reply.ended = reply.ended or item.stream_ended
        self.changed.set()
        self.changed = asyncio.Event()


class Client:
    """A client of one server. Use it as an asynchronous context manager."""

    def __init__(self, port: int, name: str = "localhost") -> None:
        self._port = port
        self._name = name
        self._protocol: _Protocol | None = None
        self._context: Any = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        context, self._context, self._protocol = self._context, None, None
        if context is not None:
            try:
                await context.__aexit__(None, None, None)
            except ConnectionError:
                pass

    async def _connected(self) -> _Protocol:
        if self._protocol is not None and self._protocol.closed is None:
            return self._protocol
        await self._leave()
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
        configuration.server_name = self._name
        self._context = connect("127.0.0.1", self._port, configuration=configuration, create_protocol=_Protocol)
        self._protocol = await self._context.__aenter__()
        return self._protocol

    async def ask(
        self,
        fields: Iterable[Field],
        body: bytes | None = None,
        trailers: Iterable[Field] | None = None,
        *,
        end: bool = True,
    ) -> Reply:
        """Send a request whose field section is *fields*, whatever they are, and wait for its end."""
        protocol = await self._connected()
        stream = protocol._quic.get_next_available_stream_id()
        reply = protocol.replies[stream] = Reply()
        data = headers(fields)
        if body is not None:
            data += frame(0, body)
        if trailers is not None:
            data += headers(trailers)
        protocol._quic.send_stream_data(stream, data, end_stream=end)
        protocol.transmit()
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while not reply.ended and reply.reset is None and reply.closed is None:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                protocol._quic.reset_stream(stream, 0x10C)
                protocol.transmit()
                break
            try:
                await asyncio.wait_for(protocol.changed.wait(), left_s)
            except TimeoutError:
                continue
        return reply
