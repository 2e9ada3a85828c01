"""An HTTP/1.1 connection to an upstream: h11 parses and writes, this is its transport.

Refused beyond what h11 refuses: Transfer-Encoding together with Content-Length, or from HTTP/1.0 (RFC 9112 section
6.1), fields that HTTP/3 could not carry, status codes that do not exist, upgrades nobody asked for, and limits. After a
response that is complete the connection is free again, unless one of both sides has more to say. Where requests go is
decided in pool.py, which outcome an end has in exchange.py.

Long because parsing, reading and writing of one connection share its state.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, cast

import h11

from velocity_edge.http.message import Malformed
from velocity_edge.http.requests import Headers, Outcome
from velocity_edge.http.upstreams import PoolSettings, SocketAddress
from workers.proxy.client import tls, websocket
from workers.proxy.client.exchange import HIGH_BYTES, LOW_BYTES, Exchange
from workers.proxy.client.fields import RequestHead, response_fields, trailer_fields

#: Events of the parser in one turn of the loop. More wait for the next: tiny chunks must not delay other requests.
_EVENTS_PER_TURN: Final = 256


class Unusable(Exception):
    """What the server sent cannot be passed on. The text is for the log."""


class H1Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    multiplexed = False

    def __init__(self, settings: PoolSettings, address: SocketAddress, changed: Callable[[H1Connection], None]) -> None:
        """*changed* is called when the connection becomes free and when it is closed."""
        self._settings = settings
        self._changed = changed
        self.address = address
        self.requests = 0
        self.closed = False
        #: No further request.
        self.retired = False
        self._transport: asyncio.Transport = None  # type: ignore[assignment] # until connection_made
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=settings.max_head_bytes)
        self._exchange: Exchange | None = None
        self._proof = b""
        self._chunked_request = False
        self._response_ended = False
        self._tunnel = False
        self._reading = True
        self._pumping = False
        self._eof = False
        self._writable: asyncio.Future[None] | None = None

    # --- from the pool ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Number of requests."""
        return int(self._exchange is not None)

    @property
    def free(self) -> bool:
        """Whether a request may begin."""
        return self._exchange is None and not self.closed and not self.retired and not self._transport.is_closing()

    def close(self) -> None:
        """Close a connection that has no request."""
        self.retired = True
        if self._exchange is None:
            self._transport.close()

    def begin(self, head: RequestHead, exchange: Exchange) -> None:
        """Write the head of a request; without a body, the whole request."""
        self._exchange = exchange
        self._response_ended = False
        self.requests += 1
        fields = [(b"host", head.authority), *head.fields]
        method = head.method
        if head.tunnel:
            method = b"GET"
            upgrade, self._proof = websocket.upgrade_fields(head, secrets.token_bytes(websocket.KEY_BYTES))
            fields = [(b"host", head.authority), *upgrade]
        else:
            if (b"te", b"trailers") in fields:
                fields.append((b"connection", b"te"))
            self._chunked_request = head.length == -1
            if self._chunked_request:
                fields.append((b"transfer-encoding", b"chunked"))
        data = self._parser.send(h11.Request(method=method, target=head.target, headers=fields))
        assert data is not None
        if head.length is None or head.tunnel:
            data += self._parser.send(h11.EndOfMessage()) or b""
        self._transport.write(data)

    # --- from the exchange --------------------------------------------------------------------------------------------

    async def send(self, exchange: Exchange, data: bytes) -> None:
        """Write bytes of the body, or of a tunnel. Raises `ValueError` when Content-Length said less."""
        if self._tunnel:
            self._transport.write(data)
        else:
            try:
                parts = self._parser.send_with_data_passthrough(h11.Data(data=data))
            except h11.LocalProtocolError as error:
                raise ValueError(f"cannot send this body to an upstream: {error}") from None
            self._transport.writelines(cast("list[bytes]", parts))
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def finish(self, exchange: Exchange, trailers: Headers) -> None:
        """End the body. Raises `ValueError` when Content-Length said more."""
        if self._tunnel:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            return
        chunked = self._chunked_request
        try:
            data = self._parser.send(h11.EndOfMessage(headers=list(trailers) if chunked else []))
        except h11.LocalProtocolError as error:
            raise ValueError(f"cannot send this body to an upstream: {error}") from None
        if data:
            self._transport.write(data)

    def consumed(self, exchange: Exchange, n_bytes: int) -> None:
        """Read on when the requester has caught up."""
        if not self._reading and not self._pumping and exchange.unread_bytes <= LOW_BYTES:
            self._read_on()

    def abort(self, exchange: Exchange) -> None:
        """Close the connection: a request on it cannot be taken back."""
        self.retired = True
        self._transport.abort()

    # --- from the transport -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; close a connection that says something without being asked."""
        exchange = self._exchange
        if not data:
            return  # h11 takes it for the end of the connection
        if exchange is None:
            self.close()
        elif self._tunnel:
            exchange.receive(data)
            self._hold_back(exchange)
        else:
            self._parser.receive_data(data)
            if not self._pumping:
                self._pump()

    def eof_received(self) -> bool:
        """The server sends no more: the end of a body that is delimited so, and of a tunnel."""
        exchange, self._eof = self._exchange, True
        if exchange is None:
            self.retired = True
        elif self._tunnel:
            exchange.end()
            self._done(exchange, keep=False)
        elif not tls.ended(self._transport.get_extra_info("ssl_object")):
            exchange.fail(Outcome.CLOSED_EARLY, "the upstream closed the connection without the end of TLS")
        else:
            self._parser.receive_data(b"")
            if not self._pumping:
                self._pump()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The end of the connection is the end of its request, after what was received before."""
        while self._pumping and error is None:
            self._pump()
        self.closed = self.retired = True
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.fail(
                Outcome.CLOSED_EARLY,
                "the upstream closed the connection" if error is None else "the connection was reset",
            )
        self._changed(self)

    def pause_writing(self) -> None:
        """The server is behind."""
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The server has caught up."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # --- parsing ------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        self._pumping = False
        exchange = self._exchange
        if exchange is None or self.closed:
            return
        parts: list[bytes] = []
        try:
            more = self._parse(exchange, parts)
        except h11.RemoteProtocolError:
            self._invalid(exchange, parts, "no HTTP/1.1, or over a limit")
            return
        except (Malformed, Unusable) as error:
            self._invalid(exchange, parts, str(error))
            return
        if parts:
            exchange.receive(b"".join(parts))
        if self._exchange is None:
            return
        if self._response_ended:
            self._complete(exchange)
        elif exchange.over:
            pass
        elif more:
            self._pumping = True
            self._stop_reading()
            asyncio.get_running_loop().call_soon(self._pump)
        elif not self._hold_back(exchange):
            self._read_on()

    def _parse(self, exchange: Exchange, parts: list[bytes]) -> bool:
        """Process events; return whether there may be more of them. Raises what is wrong with the response."""
        limits = self._settings.max_head_bytes, self._settings.max_fields
        for _ in range(_EVENTS_PER_TURN):
            if exchange.over:
                return False
            event = self._parser.next_event()
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.Response):
                self._on_head(exchange, event)
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    self._on_upgrade(exchange, event)
                    return False
                exchange.informational(event.status_code, response_fields(event.status_code, event.headers, *limits))
            elif isinstance(event, h11.EndOfMessage):
                exchange.trailers = trailer_fields(event.headers, *limits)
                self._response_ended = True
                return False
            else:  # NEED_DATA, PAUSED, ConnectionClosed
                return False
        return True

    def _on_head(self, exchange: Exchange, event: h11.Response) -> None:
        status, names = event.status_code, {name for name, _ in event.headers}
        if not 200 <= status <= 599:
            raise Unusable("a status code that does not exist")
        if not event.http_version.startswith(b"1."):
            raise Unusable("another version of HTTP")
        if b"transfer-encoding" in names and (b"content-length" in names or event.http_version != b"1.1"):
            raise Unusable("Transfer-Encoding with Content-Length, or of HTTP/1.0")
        if exchange.tunnel and status < 300:
            raise Unusable("a response to an upgrade that is neither 101 nor a refusal")
        if exchange.tunnel:
            exchange.refuse_tunnel()
        exchange.respond(status, response_fields(status, event.headers, *self._limits))

    def _on_upgrade(self, exchange: Exchange, event: h11.InformationalResponse) -> None:
        if not exchange.tunnel or not websocket.accepted(list(event.headers), self._proof):
            raise Unusable("101 (Switching Protocols) without the proof of RFC 6455")
        self._tunnel = True
        kept = response_fields(101, event.headers, *self._limits)
        exchange.respond(200, [field for field in kept if field[0] != b"sec-websocket-accept"])
        data, eof = self._parser.trailing_data
        if data:
            exchange.receive(data)
        if eof:
            exchange.end()
            self._done(exchange, keep=False)

    @property
    def _limits(self) -> tuple[int, int]:
        return self._settings.max_head_bytes, self._settings.max_fields

    def _invalid(self, exchange: Exchange, parts: list[bytes], reason: str) -> None:
        if parts:
            exchange.receive(b"".join(parts))
        if self._eof:
            exchange.fail(Outcome.CLOSED_EARLY, "the upstream closed the connection")
        else:
            exchange.fail(Outcome.INVALID, reason)

    def _complete(self, exchange: Exchange) -> None:
        """The response is complete. The connection is free if the request is, and if neither side wants its end."""
        trailing, eof = self._parser.trailing_data
        keep = self._parser.our_state is h11.DONE and not trailing and not eof
        most = self._settings.max_requests_per_connection
        keep = keep and not self.retired and not (most and self.requests >= most)
        exchange.end(exchange.trailers)
        if keep:
            self._parser.start_next_cycle()
        self._done(exchange, keep=keep)

    def _done(self, exchange: Exchange, *, keep: bool) -> None:
        self._exchange = None
        if keep:
            self._read_on()
            self._changed(self)
        else:
            self.retired = True
            if self._transport.get_write_buffer_size():
                self._transport.abort()  # a server that does not read would keep it open for ever
            else:
                self._transport.close()

    def _hold_back(self, exchange: Exchange) -> bool:
        if exchange.unread_bytes > HIGH_BYTES:
            self._stop_reading()
        return exchange.unread_bytes > HIGH_BYTES

    def _stop_reading(self) -> None:
        if self._reading and not self._eof and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()
