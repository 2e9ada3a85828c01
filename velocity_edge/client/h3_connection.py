"""One HTTP/3 connection of the client: passes datagrams and timers to aioquic, and its events to the responses.

Resolving a name, and one exchange as a whole, are in h3_client.py. Long because requests,
uploads and their abandonment share the state of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from aioquic.h3.events import DataReceived
from aioquic.quic import events as quic_events

from velocity_edge.client.connection import ClientConnection, ClientH3
from velocity_edge.client.facts import HandshakeFacts, Timings, handshake_facts
from velocity_edge.client.options import Options
from velocity_edge.client.response import Response
from velocity_edge.errors import Unavailable, Unreachable
from velocity_edge.tls.client import ClientHandshake
from velocity_edge.tls.client_policy import ClientPolicy, Session

NO_VIABLE: Final = "cannot reach {url}: {why}"
#: Body pieces are sent while less than this waits to be acknowledged.
_SEND_HIGH_BYTES: Final = 1024 * 1024
_SEND_PIECE_BYTES: Final = 64 * 1024
#: H3_REQUEST_CANCELLED (RFC 9114 section 8.1).
_REQUEST_CANCELLED: Final = 0x10C
_NO_ERROR: Final = 0x100

HeaderPairs = Iterable[tuple[str, str]]


class Connection(asyncio.DatagramProtocol):
    """One QUIC connection with HTTP/3. `connect` in h3_client.py makes it."""

    def __init__(self, url: str, policy: ClientPolicy, options: Options) -> None:
        self.url = url
        self.timings = Timings()
        self.sessions: list[Session] = []
        self.tokens: list[bytes] = []
        self._options = options
        self._quic = ClientConnection(
            policy, token=options.token, on_session=self.sessions.append, on_token=self.tokens.append
        )
        self._h3: ClientH3 | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._peer: Any = None
        self._responses: dict[int, Response] = {}
        self._moved = asyncio.Event()
        self._unreachable: OSError | None = None
        #: Streams that were abandoned, until the server has ended them, too.
        self._abandoned: set[int] = set()

    # --- for callers --------------------------------------------------------------------------------------------------

    @property
    def handshake(self) -> HandshakeFacts:
        """What was negotiated."""
        return handshake_facts(self.tls, retried=self._quic.retried)

    @property
    def tls(self) -> ClientHandshake:
        """The TLS handshake."""
        return self._quic.context.handshake

    @property
    def address(self) -> str:
        """The address and port of the server."""
        host, port = self._peer[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def retried(self) -> bool:
        """Whether the server sent a Retry packet."""
        return self._quic.retried

    @property
    def going_away(self) -> bool:
        """Whether the server sent GOAWAY."""
        return self._h3 is not None and self._h3.going_away

    @property
    def usable(self) -> bool:
        """Whether the server takes further requests on this connection, as far as it has said."""
        return self._quic.failure is None and not self.going_away

    @property
    def running(self) -> int:
        """Number of requests whose response has not come to its end."""
        return len(self._responses)

    async def request(
        self,
        method: str,
        target: str | None = None,
        headers: HeaderPairs = (),
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        authority: str | None = None,
        on_informational: Callable[[int, list[tuple[str, str]]], None] | None = None,
    ) -> Response:
        """Send a request and wait for the header section of the response. *target* is a path; None: that of the URL.

        A *body* in chunks is sent while the response arrives; what it raises ends the response. *authority*: other
        than that of the URL. Whoever cancels this, or does not read a response to its end, has it abandoned.
        """
        if self._h3 is None:
            self._h3 = ClientH3(self._quic)
        parts = urlsplit(self.url)
        path = target or (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        stream_id = self._quic.get_next_available_stream_id()
        response = self._responses[stream_id] = Response(
            partial(self._consumed, stream_id), self.wait, partial(self._abandon, stream_id)
        )
        if on_informational is not None:
            response.on_informational = on_informational
        fields = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", (authority or parts.netloc.rpartition("@")[2]).encode()),
            (b":path", path.encode()),
            *((name.lower().encode(), value.encode("latin-1")) for name, value in headers),
        ]
        if method == "HEAD":
            self._h3.without_content.add(stream_id)
        started_s = self._loop.time()
        self._h3.send_headers(stream_id, fields, end_stream=body is None)
        self._transmit()
        try:
            if isinstance(body, bytes):
                await self._send_body(stream_id, body)
            elif body is not None:
                response.upload = self._loop.create_task(self._upload(stream_id, response, body))
            await response.wait_for_head()
        except BaseException:
            response.abandon()
            raise
        self.timings.first_byte_s = self._loop.time() - started_s
        return response

    async def _upload(self, stream_id: int, response: Response, body: AsyncIterable[bytes]) -> None:
        """Send chunks as they come. Errors are the response's."""
        try:
            async for chunk in body:
                if chunk:
                    await self._send_body(stream_id, chunk, fin=False)
            await self._send_body(stream_id, b"")
        except asyncio.CancelledError:
            self._stop_sending(stream_id)
            raise
        except Exception as error:
            response.fail(error)
            self._abandon(stream_id)

    def _stop_sending(self, stream_id: int) -> None:
        """Leave out the rest of a request that was answered already."""
        if self._quic.failure is None and self._quic.stream(stream_id) is not None:
            self._quic.reset_stream(stream_id, _NO_ERROR)
            self._transmit()

    def _abandon(self, stream_id: int) -> None:
        """Reset a request both ways (RFC 9114 section 4.1.1)."""
        self._responses.pop(stream_id, None)
        if self._quic.failure is not None or self._quic.stream(stream_id) is None:
            return
        self._quic.consume_all(stream_id)
        self._quic.reset_stream(stream_id, _REQUEST_CANCELLED)
        self._quic.stop_stream(stream_id, _REQUEST_CANCELLED)
        self._abandoned.add(stream_id)
        self._transmit()

    async def _send_body(self, stream_id: int, body: bytes, *, fin: bool = True) -> None:
        assert self._h3 is not None
        for start in range(0, max(1, len(body)), _SEND_PIECE_BYTES):
            piece = body[start : start + _SEND_PIECE_BYTES]
            while self._waiting_to_send(stream_id) > _SEND_HIGH_BYTES:
                self._moved.clear()
                await self.wait(self._moved)
            response = self._responses.get(stream_id)
            if response is None or response.error is not None or self._quic.failure is not None:
                self._stop_sending(stream_id)
                return
            self._h3.send_data(stream_id, piece, fin and start + len(piece) >= len(body))
            self._transmit()

    def _waiting_to_send(self, stream_id: int) -> int:
        stream = self._quic.stream(stream_id)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender._buffer_start

    async def wait(self, event: asyncio.Event) -> None:
        """Wait until *event* is set. Raises `Unreachable` after the timeout."""
        try:
            async with asyncio.timeout(self._options.timeout_s):
                await event.wait()
        except TimeoutError:
            raise Unreachable(
                f"cannot get a response from {self.url}: nothing arrived for {self._options.timeout_s:g} s"
            ) from None

    def _consumed(self, stream_id: int, n_bytes: int) -> None:
        self._quic.consume(stream_id, n_bytes)
        self._transmit()

    def close(self) -> None:
        """Close the connection; returns at once."""
        self._quic.close(error_code=0x100)
        self._transmit()

    # --- connecting ---------------------------------------------------------------------------------------------------

    async def establish(self, peer: Any) -> None:
        """Complete the handshake. Raises a `VelocityError`."""
        self._peer = peer
        started_s = self._loop.time()
        self._quic.connect(peer, now=started_s)
        self._transmit()
        try:
            async with asyncio.timeout(self._options.timeout_s):
                while not self.tls.done and self._quic.failure is None:
                    if self._unreachable is not None:
                        raise self._error(str(self._unreachable.strerror))
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise self._error(f"no answer from {self.address} within {self._options.timeout_s:g} s") from None
        self.timings.handshake_s = self._loop.time() - started_s
        if self._quic.failure is not None:
            raise self._failure()

    def _error(self, why: str) -> Unreachable:
        return Unreachable(NO_VIABLE.format(url=self.url, why=why))

    def _failure(self) -> Exception:
        return Unreachable(f"cannot talk to {self.url}: {self._quic.why_closed()}")

    @property
    def refused(self) -> bool:
        """Whether the connection ended with an error of the transport: the server, at this address, has answered."""
        return self._quic.failure is not None and self._quic.failure.frame_type is not None

    # --- datagrams and timers------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Take the socket (asyncio)."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Take a datagram from the connected peer (asyncio)."""
        self._quic.receive_datagram(data, self._peer, self._loop.time())
        self._handle_events()
        self._transmit()

    def error_received(self, error: Exception) -> None:
        """Take an ICMP error: the port is unreachable (asyncio)."""
        if isinstance(error, OSError):
            self._unreachable = error
        self._moved.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Stop the timer: the socket is closed (asyncio)."""
        if self._timer is not None:
            self._timer.cancel()

    def _handle_events(self) -> None:
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, quic_events.StreamReset):
                self._was_reset(event.stream_id, event.error_code)
            elif isinstance(event, quic_events.StreamDataReceived) and self._h3 is None:
                self._h3 = ClientH3(self._quic)
            if self._h3 is not None:
                self._http(event)
        if self._quic.failure is not None:
            failure = self._failure()
            for response in self._responses.values():
                response.fail(failure)
            self._responses.clear()
        self._moved.set()

    def _http(self, event: Any) -> None:
        assert self._h3 is not None
        if getattr(event, "stream_id", None) in self._abandoned:
            self._ignore(event)
            return
        body = 0
        for http in self._h3.handle_event(event):
            response = self._responses.get(http.stream_id)
            if response is not None:
                body += len(http.data) if isinstance(http, DataReceived) else 0
                response.take(http)
                if response.over:
                    self._responses.pop(http.stream_id, None)
        if isinstance(event, quic_events.StreamDataReceived):
            self._quic.consume(event.stream_id, len(event.data) - body)

    def _ignore(self, event: Any) -> None:
        """An event of an abandoned stream: its bytes are not parsed any more."""
        assert self._h3 is not None
        ended = isinstance(event, quic_events.StreamReset)
        if isinstance(event, quic_events.StreamDataReceived):
            self._quic.consume(event.stream_id, len(event.data))
            ended = event.end_stream
        elif ended:
            self._h3.handle_event(event)
        if ended:
            self._abandoned.discard(event.stream_id)
            self._h3.forget(event.stream_id)

    def _was_reset(self, stream_id: int, error_code: int) -> None:
        if response := self._responses.pop(stream_id, None):
            why = f"the server reset the request with code 0x{error_code:x}"
            response.fail(Unavailable(f"cannot get {self.url}: {why}"))

    def _transmit(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        now_s = self._loop.time()
        for datagram, _ in self._quic.datagrams_to_send(now_s):
            self._transport.sendto(datagram)
        timer_s = self._quic.get_timer()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if timer_s is None else self._loop.call_at(timer_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._quic.handle_timer(self._loop.time())
        self._handle_events()
        self._transmit()
