"""Requests and their answers: from an engine's events to handlers, and back into the engine.

What comes in one turn and is answered in the same turn leaves no trace here. An exchange (a request with a body that is
still coming, or with a handler that waits) lives until its stream is closed. Each handler's failure ends in a 500 with
a number that the log line has, too; a failure after the head was sent ends in a reset stream.

The hot path: an answer that a handler marked `shared` is given again to the same question for the rest of the second
(shared_answers.py).

A turn has a time budget for handlers (turns.py). Requests that are over it, and bodies that are produced chunk by
chunk, wait for later turns, in fair order between connections; what has no room to wait gets a 503.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from velocity_edge.http.requests import (
    Address,
    BodyReceived,
    ConnectionClosed,
    Event,
    EventKind,
    FileRange,
    HandshakeCompleted,
    RequestReceived,
    Requests,
    StreamClosed,
    StreamWritable,
)
from velocity_edge.wire.counters import CLOSES
from velocity_edge.wire.error_codes import error_name, is_error
from workers.handlers.static.open_files import OpenFiles
from workers.http import (
    H3_INTERNAL_ERROR,
    H3_NO_ERROR,
    Body,
    BodyCutShort,
    Handler,
    Request,
    Response,
    body_length,
    plain,
)
from workers.serve.access_log import AccessLog, Formatter
from workers.serve.backlog import weight_of
from workers.serve.exchange import Exchange
from workers.serve.failures import CutShort, internal_error
from workers.serve.shared_answers import Key, SharedAnswers
from workers.serve.turns import Turns

log = logging.getLogger(__name__)

#: Of a body that no handler wanted, so much is taken and thrown away after the answer; then the stream is reset. It is
#: the default of `max_request_body_bytes`: a browser that is asked to stop before it has sent everything never shows
#: the answer. How long it may take is the engine's `request_timeout_s`.
_MAX_UNWANTED_BYTES: Final = 16 * 1024 * 1024
#: Bodies that an engine takes whole; others are chunks that are yet to come.
_AT_HAND: Final = (bytes, FileRange, type(None))


@dataclass(frozen=True, slots=True)
class Revision:
    """What requests need of one configuration: which handler, and how they are logged."""

    number: int
    find: Callable[[Request], Handler]
    access_line: Formatter | None = None


class Exchanges:
    """All requests of one worker."""

    def __init__(
        self,
        engine: Requests,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        flush_soon: Callable[[], None],
        *,
        send_high_bytes: int,
        write_log: Callable[[bytes], None],
        clock: Callable[[], float] = time.time,
        now_ns: Callable[[], int] = time.monotonic_ns,
        progress: Callable[[], None] = lambda: None,
        open_files: OpenFiles | None = None,
    ) -> None:
        """*start* runs a coroutine as a task of the worker; *flush_soon* has the engine's packets sent after this turn.

        *write_log* takes lines of the access log and must not wait. *clock* is wall time in seconds, *now_ns* what the
        budget of a turn is measured with. *progress* is called for each turn (vitals.py).
        *open_files* bounds what answers in flight keep open.
        """
        self._engine = engine
        self._respond = engine.respond
        self._start = start
        self._flush_soon = flush_soon
        self.send_high_bytes = send_high_bytes
        self._clock = clock
        self._turns = Turns(progress, lambda: self._shared.renew(), flush_soon, now_ns)
        self._counts = dict.fromkeys(("requests_deferred", "requests_shed", "open_files_refused"), 0)
        self._open_files = open_files or OpenFiles()
        self._cut_short = CutShort(now_ns)
        self._revision: Revision | None = None
        self._open: dict[int, Exchange] = {}
        #: Established connections and who is at the other end.
        self._peers: dict[int, Address] = {}
        #: Which site each of them asked for (SNI), for operators who want to know who is left.
        self._sites: dict[int, str] = {}
        self._shared = SharedAnswers(clock)
        self.access_log = AccessLog(write_log, clock)
        #: Connections that we closed with an error, by the names of counters.CLOSES.
        self.closes = dict.fromkeys(CLOSES, 0)
        handlers: dict[EventKind, Callable[[Any], None]] = {
            EventKind.HANDSHAKE_COMPLETED: self._on_handshake,
            EventKind.REQUEST_RECEIVED: self._on_request,
            EventKind.BODY_RECEIVED: self._on_body,
            EventKind.STREAM_WRITABLE: self._on_writable,
            EventKind.STREAM_CLOSED: self._on_stream_closed,
            EventKind.CONNECTION_CLOSED: self._on_connection_closed,
        }
        self._handlers = tuple(handlers[kind] for kind in EventKind)

    # --- for the endpoint and the worker -----------------------------------------------------------------------------

    def use(self, revision: Revision) -> None:
        """Requests from now on are answered by this revision; those that run finish with theirs."""
        self._revision = revision
        self._shared.forget()

    def handle(self, events: list[Event]) -> None:
        """Take the events of one turn."""
        self._shared.renew()
        self._turns.begin()
        handlers = self._handlers
        for event in events:
            handlers[event.kind](event)

    @property
    def established(self) -> int:
        """Connections whose handshake is complete."""
        return len(self._peers)

    def is_established(self, connection: int) -> bool:
        """Return whether that connection's handshake is complete."""
        return connection in self._peers

    def site(self, connection: int) -> str:
        """Return the server name that the client asked for; empty when it named none."""
        return self._sites.get(connection, "")

    @property
    def counts(self) -> dict[str, int]:
        """Return what was counted since this process began, by the names of counters.WORK."""
        return {**self._counts, "bodies_cut_short": self._cut_short.count}

    @property
    def running(self) -> int:
        """Exchanges that are open."""
        return len(self._open)

    # --- events ------------------------------------------------------------------------------------------------------

    def _on_handshake(self, event: HandshakeCompleted) -> None:
        self._peers[event.connection] = event.peer
        self._sites[event.connection] = event.server_name

    def _on_request(self, event: RequestReceived) -> None:
        if self._turns.over:
            self._defer(event)
        else:
            self._serve(event, self._clock())

    def _serve(self, event: RequestReceived, came_s: float) -> None:
        key = self._shared.key(event)
        found = self._shared.get(key) if key is not None and not event.early else None
        if found is None:
            self._answer(event, key, came_s)
            return
        headers, body = found
        is_file = isinstance(body, FileRange)
        if is_file and not self._open_files.may_send(event.connection, body):
            self._answer(event, key, came_s)
            return
        if self._respond(event.stream, 200, headers, body) and is_file:
            self._open_files.sent(event.connection, event.stream, body)
        revision = self._revision
        if revision is not None and revision.access_line is not None:
            self._log(event, revision, 200, body_length(body), came_s)

    def _on_body(self, event: BodyReceived) -> None:
        exchange = self._open.get(event.stream)
        if exchange is None:
            return  # reset by us: the engine credits what it drops
        if exchange.answered and exchange.task is None:
            self._discard(exchange, len(event.data), event.fin)
        else:
            exchange.body.feed(event.data, event.fin)

    def _on_writable(self, event: StreamWritable) -> None:
        exchange = self._open.get(event.stream)
        if exchange is not None and exchange.writable is not None:
            self._let_run(exchange)

    def _on_stream_closed(self, event: StreamClosed) -> None:
        if self._turns.backlog.waiting:
            self._turns.backlog.drop(event.stream)
        if self._open_files.in_flight:
            self._open_files.release(event.stream)
        exchange = self._open.pop(event.stream, None)
        if exchange is not None and exchange.task is not None:
            exchange.task.cancel()

    def _on_connection_closed(self, event: ConnectionClosed) -> None:
        self._peers.pop(event.connection, None)
        self._sites.pop(event.connection, None)
        if not event.by_peer and is_error(event.error_code, application=event.application):
            name = error_name(event.error_code, application=event.application)
            self.closes[f"closed_{name}"] += 1
            # What a library says of an error may quote the peer.
            log.debug("closed a connection: %s (0x%x): %s", name, event.error_code, ascii(event.reason))

    # --- turns -------------------------------------------------------------------------------------------------------

    def _defer(self, event: RequestReceived) -> None:
        """Have a request wait for a later turn; where too much waits already it gets a 503 now."""
        came_s = self._clock()
        exchange = self._exchange(event)

        def work() -> None:
            if event.fin:
                del self._open[event.stream]  # an answer that is sent at once leaves no trace
            self._serve(event, came_s)

        if self._turns.later(event.connection, event.stream, work, weight_of(event)):
            self._open[event.stream] = exchange
            self._counts["requests_deferred"] += 1
            return
        self._counts["requests_shed"] += 1
        if not event.fin:
            self._open[event.stream] = exchange
        response = plain(503, "", (b"retry-after", b"1"))
        self._send(exchange, response)
        self._log(event, self._revision, 503, body_length(response.body), came_s)
        self._finish_body(exchange)

    def _let_run(self, exchange: Exchange) -> None:
        """Have the exchange's coroutine go on, within the budget of this turn or of a later one."""
        if self._turns.over:
            self._turns.later(exchange.connection, exchange.stream, lambda: self._wake(exchange))
        else:
            self._wake(exchange)

    def _wake(self, exchange: Exchange) -> None:
        if exchange.writable is not None and not exchange.writable.done():
            self._turns.charge_step()
            exchange.writable.set_result(None)

    # --- answers -----------------------------------------------------------------------------------------------------

    def _exchange(self, event: RequestReceived) -> Exchange:
        stream = event.stream
        body = Body(None) if event.fin else Body(lambda n_bytes: self._credit(stream, n_bytes), self._invitation(event))
        return Exchange(event.connection, stream, body)

    def _answer(self, event: RequestReceived, key: Key | None, started_s: float) -> None:
        stream = event.stream
        revision = self._revision
        exchange = self._open.get(stream) or self._exchange(event)
        body = exchange.body
        if not event.fin:
            self._open[stream] = exchange
        try:
            request = None if event.fields_too_large else self._request(event, body)
            if revision is None or request is None:
                status = 503 if revision is None else 431 if event.fields_too_large else 400
                result: Response | Awaitable[Response] = plain(status)
            else:
                result = revision.find(request)(request)
        except Exception as error:
            result = internal_error(error, event)
        if isinstance(result, Response):
            result = self._within_bounds(event, result)
        if not isinstance(result, Response) or not isinstance(result.body, _AT_HAND):
            self._open[stream] = exchange
            self._turns.charge_step()
            exchange.task = self._start(self._run(exchange, event, revision, result, started_s))
            return
        if self._send(exchange, result) and result.shared and key is not None and result.status == 200:
            if isinstance(result.body, FileRange) and self._open_files.crowded:
                self._shared.forget()  # what is shared keeps its files open
            else:
                self._shared.remember(key, result)
        self._log(event, revision, result.status, body_length(result.body), started_s)
        self._finish_body(exchange)

    def _request(self, event: RequestReceived, body: Body) -> Request | None:
        """Return the request; None when :authority and Host contradict each other or both are missing."""
        authority = event.authority
        for name, value in event.headers:
            if name == b"host":
                if authority and value != authority:
                    return None
                authority = value
        if not authority:
            return None
        peer = self._peers.get(event.connection)
        return Request(
            event.method,
            authority,
            event.path,
            event.headers,
            scheme=event.scheme,
            peer=peer,
            body=body,
            early=event.early,
        )

    async def _run(
        self,
        exchange: Exchange,
        event: RequestReceived,
        revision: Revision | None,
        result: Response | Awaitable[Response],
        started_s: float,
    ) -> None:
        """Wait for a handler's answer, then for its chunks. No exception leaves this, except when cancelled."""
        try:
            try:
                response = result if isinstance(result, Response) else await result
            except Exception as error:
                response = internal_error(error, event)
            response = self._within_bounds(event, response)
            if not isinstance(response.body, _AT_HAND):
                sent = await self._stream(exchange, response, response.body, event)
            else:
                self._send(exchange, response)
                sent = body_length(response.body)
            self._log(event, revision, response.status, sent, started_s)
        finally:
            exchange.task = None
            self._finish_body(exchange)
            self._flush_soon()

    async def _stream(
        self, exchange: Exchange, response: Response, chunks: AsyncIterable[bytes], event: RequestReceived
    ) -> int:
        """Send head and chunks; wait whenever the peer is behind. Return the bytes of the body."""
        engine, stream = self._engine, exchange.stream
        exchange.answered = True
        sent = 0
        if not engine.respond(stream, response.status, response.headers, None, fin=False):
            return 0
        self._open_files.sent(exchange.connection, stream, chunks)
        try:
            async for chunk in chunks:
                buffered = engine.write(stream, chunk, fin=False)
                if buffered < 0:
                    return sent
                sent += len(chunk)
                self._flush_soon()
                behind, over = buffered > self.send_high_bytes, self._turns.used
                if behind or over:
                    exchange.writable = asyncio.get_running_loop().create_future()
                    if not behind:
                        self._let_run(exchange)
                    await exchange.writable
                    exchange.writable = None
        except BodyCutShort as error:
            self._cut_short.add(error, event)
            engine.reset(stream, H3_INTERNAL_ERROR)
            return sent
        except Exception as error:
            internal_error(error, event)
            engine.reset(stream, H3_INTERNAL_ERROR)
            return sent
        engine.write(stream, b"", fin=True)
        return sent

    def _send(self, exchange: Exchange, response: Response) -> bool:
        exchange.answered = True
        body = response.body
        assert isinstance(body, _AT_HAND)
        if not self._respond(exchange.stream, response.status, response.headers, body):
            return False
        self._open_files.sent(exchange.connection, exchange.stream, body)
        return True

    def _within_bounds(self, event: RequestReceived, response: Response) -> Response:
        """Return *response*, or a 503 when its connection holds too many open files."""
        if self._open_files.may_send(event.connection, response.body):
            return response
        self._counts["open_files_refused"] += 1
        return plain(503, "", (b"retry-after", b"1"))

    # --- bodies of clients that ask first ----------------------------------------------------------------------------

    def _invitation(self, event: RequestReceived) -> Callable[[], None] | None:
        """Return what sends a 100 (Continue), when the client waits for one (RFC 9110 section 10.1.1)."""
        if not any(name == b"expect" and value.lower() == b"100-continue" for name, value in event.headers):
            return None

        def invite() -> None:
            if self._respond(event.stream, 100, (), None, fin=False):
                self._flush_soon()

        return invite

    # --- bodies that nobody wants ------------------------------------------------------------------------------------

    def _credit(self, stream: int, n_bytes: int) -> None:
        self._engine.credit(stream, n_bytes)
        self._flush_soon()

    def _finish_body(self, exchange: Exchange) -> None:
        """After the answer: throw away what the handler left of the request's body."""
        if self._open.get(exchange.stream) is not exchange:
            return
        if exchange.body.complete and not exchange.body.take():
            del self._open[exchange.stream]
        else:
            self._discard(exchange, exchange.body.take(), exchange.body.complete)

    def _discard(self, exchange: Exchange, n_bytes: int, fin: bool) -> None:
        exchange.unwanted_bytes += n_bytes
        if fin:
            self._open.pop(exchange.stream, None)
        if n_bytes:
            self._credit(exchange.stream, n_bytes)
        if exchange.unwanted_bytes > _MAX_UNWANTED_BYTES and not fin:
            self._open.pop(exchange.stream, None)
            self._engine.reset(exchange.stream, H3_NO_ERROR)

    def _log(
        self, event: RequestReceived, revision: Revision | None, status: int, body_bytes: int, started_s: float
    ) -> None:
        if revision is not None and revision.access_line is not None:
            peer = self._peers.get(event.connection)
            self.access_log.add(revision.access_line, event, peer, status, body_bytes, started_s)
