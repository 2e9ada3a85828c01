"""An HTTP/2 connection to an upstream: h2 parses and writes, this is its transport and its flow control.

A stream's window is given back as its requester reads, the connection's as bytes arrive, so that a client that is
behind stops its own stream only; together they can hold `_STREAMS` windows. What is wrong with one response resets its
stream, what is wrong with the framing ends the connection. GOAWAY ends no stream that the server will still answer
(h2_frames.py). Where requests go is decided in pool.py, which outcome an end has in exchange.py.

Long because all frames of one connection share its state.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from h2 import stream as h2_stream
from h2.config import H2Configuration
from h2.connection import H2Connection as Parser
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from velocity_edge.http.message import Malformed
from velocity_edge.http.requests import Headers, Outcome
from velocity_edge.http.upstreams import PoolSettings, SocketAddress
from workers.proxy.client.exchange import Exchange
from workers.proxy.client.fields import Fields, RequestHead, response_fields, trailer_fields
from workers.proxy.client.h2_frames import FrameError, FrameFilter, Goaway

#: Streams of one connection; more requests open another one.
_STREAMS: Final = 100
_STREAM_WINDOW_BYTES: Final = 131_072
_CONNECTION_WINDOW_BYTES: Final = 16 * 1024 * 1024
#: Received bytes that are parsed in one turn of the loop: 1,800 empty frames, 10 ms.
_STEP_BYTES: Final = 16_384
#: Unsent bytes above which a server is not one that only is slow: uploads wait for the transport, answers to PING and
#: SETTINGS do not.
_MAX_UNSENT_BYTES: Final = 4 * 1024 * 1024
#: Far below 2**31, after which a connection has no stream ids.
_MAX_REQUESTS: Final = 1_000_000


#: h2 4.x treats 103 on a stream that was reset here as an error of the connection: one that crosses a cancellation
#: would end all other requests. Final heads it ignores, as RFC 9113 section 5.1 says; test_h2.py looks at both.
_transitions = h2_stream._transitions
_transitions.setdefault(
    (h2_stream.StreamState.CLOSED, h2_stream.StreamInputs.RECV_INFORMATIONAL_HEADERS),
    _transitions[h2_stream.StreamState.CLOSED, h2_stream.StreamInputs.RECV_HEADERS],
)


class H2Connection(asyncio.Protocol):
    """One connection with up to `_STREAMS` requests."""

    multiplexed = True

    def __init__(self, settings: PoolSettings, address: SocketAddress, changed: Callable[[H2Connection], None]) -> None:
        """*changed* is called when a stream ends and when the connection is closed."""
        self._settings = settings
        self._changed = changed
        self.address = address
        self.requests = 0
        self.closed = False
        #: No further request.
        self.retired = False
        #: Done with the server's SETTINGS; also when there will be none, and then `closed`.
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.fault = "closed before its SETTINGS"
        self._transport: asyncio.Transport = None  # type: ignore[assignment] # until connection_made
        self._filter = FrameFilter()
        self._parser = Parser(H2Configuration(client_side=True, header_encoding=None))
        self._streams: dict[int, Exchange] = {}
        self._ids: dict[Exchange, int] = {}
        #: Content-Length of responses, and bytes that a stream may be given back.
        self._expected: dict[int, int] = {}
        self._credit: dict[int, int] = {}
        self._connection_credit = 0
        self._received: deque[bytes] = deque()
        self._writable: asyncio.Future[None] | None = None
        self._window: asyncio.Future[None] | None = None

    # --- from the pool ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Number of requests."""
        return len(self._streams)

    @property
    def free(self) -> bool:
        """Whether a request may begin."""
        most = min(_STREAMS, self._parser.remote_settings.max_concurrent_streams)
        return not self.retired and not self.closed and self.running < most and not self._transport.is_closing()

    @property
    def tunnels(self) -> bool:
        """Whether the server accepts extended CONNECT (RFC 8441)."""
        return bool(self._parser.remote_settings.enable_connect_protocol)

    def close(self) -> None:
        """Close a connection that has no request; with requests, after the last of them."""
        self.retired = True
        if not self._streams and not self._transport.is_closing():
            try:
                self._parser.close_connection()
                self._flush()
            except H2Error:
                pass  # it is closed already
            if self._transport.get_write_buffer_size():
                self._transport.abort()  # a server that does not read would keep it open for ever
            else:
                self._transport.close()

    def begin(self, head: RequestHead, exchange: Exchange) -> None:
        """Send the header section of a request."""
        self.requests += 1
        most = self._settings.max_requests_per_connection or _MAX_REQUESTS
        self.retired = self.retired or self.requests >= most
        stream = self._parser.get_next_available_stream_id()
        scheme = b"https" if self._settings.tls is not None else b"http"
        fields: Fields = [(b":method", head.method), (b":scheme", scheme)]
        fields += [(b":authority", head.authority), (b":path", head.target)]
        if head.tunnel:
            fields.insert(1, (b":protocol", b"websocket"))
        self._filter.sent()
        self._streams[stream] = exchange
        self._ids[exchange] = stream
        self._parser.send_headers(stream, fields + head.fields, end_stream=head.length is None)
        self._flush()

    # --- from the exchange --------------------------------------------------------------------------------------------

    async def send(self, exchange: Exchange, data: bytes) -> None:
        """Send bytes of the body as the windows permit."""
        view = memoryview(data)
        while view and exchange in self._ids:
            stream = self._ids[exchange]
            room = min(self._parser.local_flow_control_window(stream), self._parser.max_outbound_frame_size)
            if room <= 0:
                if self._window is None:
                    self._window = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._window)
                continue
            self._filter.sent()
            self._parser.send_data(stream, bytes(view[:room]))
            view = view[room:]
            self._flush()
            exchange.active()
            if self._writable is not None:
                await asyncio.shield(self._writable)

    def finish(self, exchange: Exchange, trailers: Headers) -> None:
        """End the request."""
        stream = self._ids.get(exchange)
        if stream is None:
            return
        if trailers:
            self._parser.send_headers(stream, list(trailers), end_stream=True)
        else:
            self._parser.end_stream(stream)
        self._flush()

    def consumed(self, exchange: Exchange, n_bytes: int) -> None:
        """Give window back, in steps of a quarter."""
        stream = self._ids.get(exchange)
        if stream is not None:
            self._give(stream, n_bytes)
            self._flush()

    def abort(self, exchange: Exchange) -> None:
        """Reset the stream. After a response that did not come, nothing new is asked on this connection."""
        stream = self._ids.get(exchange)
        if stream is None:
            return
        if not exchange.status:
            self.retired = True
        self._forget(stream)
        self._reset(stream, ErrorCodes.CANCEL)
        self._changed_if_open()

    # --- from the transport -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface and SETTINGS."""
        self._transport = cast(asyncio.Transport, transport)
        parser = self._parser
        parser.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: self._settings.max_head_bytes,
            },
        )
        parser.decoder.max_header_list_size = self._settings.max_head_bytes + 32 * self._settings.max_fields
        parser.initiate_connection()
        parser.increment_flow_control_window(_CONNECTION_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Parse now what fits into a turn, and the rest in the next ones."""
        waits = bool(self._received)
        self._received.extend(data[at : at + _STEP_BYTES] for at in range(0, len(data), _STEP_BYTES))
        if not waits:
            self._step()

    def connection_lost(self, error: Exception | None) -> None:
        """The end of the connection is the end of its requests, after what was received before."""
        while self._received and error is None:
            self._step()
        self._received.clear()
        self.closed = self.retired = True
        self._settle()
        for stream, exchange in list(self._streams.items()):
            self._forget(stream)
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

    def _step(self) -> None:
        if not self._received:
            return
        try:
            for part in self._filter.feed(self._received.popleft()):
                if isinstance(part, Goaway):
                    self._on_goaway(part)
                else:
                    for event in self._parser.receive_data(part):
                        self._on_event(event)
        except (H2Error, FrameError) as error:
            self._broken(str(error) if isinstance(error, FrameError) else f"no HTTP/2: {type(error).__name__}")
            return
        self._flush()
        if self._received and not self._transport.is_closing():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._step)
        elif not self._transport.is_reading() and not self._transport.is_closing():
            self._transport.resume_reading()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._on_data(event)
        elif isinstance(event, ResponseReceived | InformationalResponseReceived):
            self._on_head(event)
        elif isinstance(event, TrailersReceived):
            self._on_trailers(event)
        elif isinstance(event, StreamEnded):
            self._on_end(event.stream_id)
        elif isinstance(event, StreamReset):
            exchange = self._forget(event.stream_id)
            if exchange is not None:
                exchange.fail(Outcome.CLOSED_EARLY, "the upstream reset the stream")
                self._changed_if_open()
        elif isinstance(event, RemoteSettingsChanged):
            self._wake_senders()
            if not self.ready.done():
                self.ready.set_result(None)
            self._changed_if_open()
        elif isinstance(event, WindowUpdated):
            self._wake_senders()

    def _on_head(self, event: ResponseReceived | InformationalResponseReceived) -> None:
        stream = event.stream_id
        exchange = self._streams.get(stream)
        if exchange is None:
            return
        limits = self._settings.max_head_bytes, self._settings.max_fields
        received = [(bytes(name), bytes(value)) for name, value in event.headers]
        text = received[0][1] if received and received[0][0] == b":status" else b""
        status = int(text) if len(text) == 3 and text.isdigit() else 0
        try:
            if not 100 <= status <= 599 or status == 101:
                raise Malformed("a status code that does not exist")
            kept = response_fields(status, received[1:], *limits)
        except Malformed as error:
            self._refuse(stream, exchange, str(error))
            return
        if status < 200:
            exchange.informational(status, kept)
            return
        if exchange.tunnel and status >= 300:
            exchange.refuse_tunnel()
        empty = exchange.is_head or status in (204, 304)
        for name, value in kept:
            if name == b"content-length" and value.isdigit():
                self._expected[stream] = int(value)
        if empty:
            self._expected[stream] = 0
        exchange.respond(200 if exchange.tunnel else status, kept)

    def _on_data(self, event: DataReceived) -> None:
        stream, data = event.stream_id, event.data or b""
        self._connection_credit += event.flow_controlled_length or 0
        if self._connection_credit >= _CONNECTION_WINDOW_BYTES // 16:
            self._parser.increment_flow_control_window(self._connection_credit)
            self._connection_credit = 0
        exchange = self._streams.get(stream)
        if exchange is None:
            return
        padding = (event.flow_controlled_length or 0) - len(data)
        if padding:
            self._give(stream, padding)
        if not data:
            return
        expected = self._expected.get(stream)
        if expected is not None:
            self._expected[stream] = expected - len(data)
            if expected < len(data):
                self._refuse(stream, exchange, "a body that is longer than announced")
                return
        exchange.receive(data)

    def _on_trailers(self, event: TrailersReceived) -> None:
        exchange = self._streams.get(event.stream_id)
        if exchange is None:
            return
        try:
            received = [(bytes(name), bytes(value)) for name, value in event.headers]
            exchange.trailers = trailer_fields(received, self._settings.max_head_bytes, self._settings.max_fields)
        except Malformed as error:
            self._refuse(event.stream_id, exchange, str(error))

    def _on_end(self, stream: int) -> None:
        if self._expected.get(stream, 0) and stream in self._streams:
            self._refuse(stream, self._streams[stream], "a body that is shorter than announced")
            return
        exchange = self._forget(stream)
        if exchange is None:
            return
        if not exchange.uploaded:
            self._reset(stream, ErrorCodes.NO_ERROR)  # RFC 9113 section 8.1: the rest of the request is not needed
        exchange.end(exchange.trailers)
        self._changed_if_open()

    def _on_goaway(self, goaway: Goaway) -> None:
        self.retired = True
        for stream, exchange in list(self._streams.items()):
            if stream > goaway.last_stream:
                self._forget(stream)
                exchange.attempt.reused = True  # not processed: the same as a connection that was closed before
                exchange.fail(Outcome.CLOSED_EARLY, "the upstream announced the end of the connection")
        self._changed_if_open()

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _refuse(self, stream: int, exchange: Exchange, reason: str) -> None:
        self._forget(stream)
        self._reset(stream, ErrorCodes.PROTOCOL_ERROR)
        exchange.fail(Outcome.INVALID, reason)
        self._changed_if_open()

    def _broken(self, reason: str) -> None:
        """Framing that cannot be understood: every request of the connection ends."""
        self.retired = True
        self.fault = reason
        self._received.clear()
        for stream, exchange in list(self._streams.items()):
            self._forget(stream)
            exchange.fail(Outcome.INVALID, reason)
        self._flush()
        self._transport.abort()
        self._settle()

    def _reset(self, stream: int, code: ErrorCodes) -> None:
        if self._transport.is_closing():
            return
        try:
            self._parser.reset_stream(stream, code)
        except H2Error:
            return  # the server was faster
        self._flush()

    def _forget(self, stream: int) -> Exchange | None:
        exchange = self._streams.pop(stream, None)
        if exchange is not None:
            del self._ids[exchange]
            self._expected.pop(stream, None)
            self._credit.pop(stream, None)
            self._wake_senders()
        return exchange

    def _changed_if_open(self) -> None:
        if self.closed:
            return
        if self.retired and not self._streams:
            self.close()
        self._changed(self)

    def _settle(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
        self._wake_senders()
        self.resume_writing()

    def _wake_senders(self) -> None:
        window, self._window = self._window, None
        if window is not None and not window.done():
            window.set_result(None)

    def _give(self, stream: int, n_bytes: int) -> None:
        credit = self._credit.get(stream, 0) + n_bytes
        if credit >= _STREAM_WINDOW_BYTES // 4:
            try:
                self._parser.increment_flow_control_window(credit, stream)
            except (H2Error, KeyError):
                pass  # the server has ended the stream: it needs no window
            credit = 0
        self._credit[stream] = credit

    def _flush(self) -> None:
        data = self._parser.data_to_send()
        if not data or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            self.fault = "the upstream does not read"
            self._transport.abort()
