"""Requests and their responses: from an engine's events to handlers, and back into the engine.

A request that arrives and is answered in the same turn leaves no state here. Others are open exchanges (exchange.py)
until their stream is closed. An exception of a handler becomes a 500 with a number that the log line has, too; after
the head was sent, the stream is reset.

The fast path: a response that may be shared is sent again for the same question for the rest of the second
(shared_answers.py); it skips routing, middleware and handler, which pipeline.py permits or not.

A turn has a time budget for handlers (turns.py). Requests above it, and bodies that are produced chunk by chunk, wait
for later turns, in fair order between connections; a request for which there is no room to wait gets a 503.

Long because all ways of an answer into the engine meet here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from velocity_edge.http.requests import (
    BodyReceived,
    Event,
    EventKind,
    FileRange,
    HandshakeCompleted,
    RequestReceived,
    Requests,
    StreamClosed,
    StreamWritable,
    UpstreamEnded,
)
from velocity_edge.http.upstreams import Forwarding
from workers.handlers.static.open_files import OpenFiles
from workers.http import H3_EXCESSIVE_LOAD, Answer, Forward, Response, body_length, plain
from workers.measures import Measures
from workers.serve.accounts import CLIENT_GONE, Accounts
from workers.serve.backlog import weight_of
from workers.serve.connections import Connections
from workers.serve.counted import HandshakeSeries
from workers.serve.exchange import Exchange, OpenExchanges, request_of
from workers.serve.failures import CutShort, internal_error
from workers.serve.forwards import Forwards, Job
from workers.serve.responses import COMPLETE, Responses
from workers.serve.revision import Revision
from workers.serve.shared_answers import Key, SharedAnswers
from workers.serve.turns import Turns


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
        measures: Measures | None = None,
    ) -> None:
        """*start* runs a coroutine as a task of the worker; *flush_soon* has the engine's packets sent after this turn.

        *write_log* takes lines of the access log and must not wait. *clock* is wall time in seconds, *now_ns* measures
        turns. *progress* is called for each turn (vitals.py). *open_files* bounds what responses in flight keep open.
        *measures* count requests and handshakes.
        """
        self._respond = engine.respond
        self._start = start
        self._flush_soon = flush_soon
        self._clock = clock
        self._turns = Turns(progress, lambda: self._shared.renew(), flush_soon, now_ns)
        self._deferred = 0
        self._shed = 0
        self._open_files = open_files or OpenFiles()
        self._cut_short = CutShort(now_ns)
        self._revision: Revision | None = None
        self._exchanges = OpenExchanges(engine, flush_soon)
        self._open = self._exchanges.by_stream
        self._shared = SharedAnswers(clock)
        self.responses = Responses(engine, flush_soon, self._turns, self._open_files, self._cut_short, send_high_bytes)
        self.connections = Connections()
        self._engine = engine
        self._measures = measures = measures or Measures()
        self.handshakes = HandshakeSeries(measures)
        self._accounts = Accounts(self.connections, measures, write_log, clock, start, now_ns)
        self.access_log = self._accounts.access_log
        self.spans = self._accounts.spans
        handlers: dict[EventKind, Callable[[Any], None]] = {
            EventKind.HANDSHAKE_COMPLETED: self._on_handshake,
            EventKind.REQUEST_RECEIVED: self._on_request,
            EventKind.BODY_RECEIVED: self._on_body,
            EventKind.STREAM_WRITABLE: self._on_writable,
            EventKind.STREAM_CLOSED: self._on_stream_closed,
            EventKind.CONNECTION_CLOSED: self.connections.on_closed,
            EventKind.UPSTREAM_ENDED: self._on_upstream_ended,
        }
        self._handlers = tuple(handlers[kind] for kind in EventKind)
        self._forwards: Forwards | None = None

    def use_forwarding(self, forwarding: Forwarding) -> None:
        """Have the engine forward requests by itself."""
        self._forwards = Forwards(forwarding, self._exchanges, self.responses, self._flush_soon, self._forwarded)

    def use(self, revision: Revision | None) -> None:
        """Answer requests with this revision from now on; running ones finish with theirs. None: with 503."""
        before, self._revision = self._revision, revision
        self.spans.send = revision.tracing.send if revision is not None and revision.tracing is not None else None
        self._shared.forget()
        if before is not None:
            before.replace()

    def handle(self, events: list[Event]) -> None:
        """Process the events of one turn."""
        self._shared.renew()
        self._turns.begin()
        handlers = self._handlers
        for event in events:
            handlers[event.kind](event)

    @property
    def counts(self) -> dict[str, int]:
        """Return counters since this process began, by the names of counters.WORK."""
        return {
            "requests_deferred": self._deferred,
            "requests_shed": self._shed,
            "open_files_refused": self.responses.refused,
            "bodies_cut_short": self._cut_short.count,
        }

    @property
    def running(self) -> int:
        """Number of open exchanges."""
        return len(self._open)

    def _on_handshake(self, event: HandshakeCompleted) -> None:
        self.handshakes.completed(event)
        if not self.connections.on_handshake(event):
            self._measures.count("velocity_connections_refused_total", ("address",))
            self._engine.close(event.connection, H3_EXCESSIVE_LOAD, "too many connections of this address")

    def _on_request(self, event: RequestReceived) -> None:
        if self._turns.over:
            self._defer(event)
        else:
            self._serve(event, self._clock())

    def _serve(self, event: RequestReceived, came_s: float) -> None:
        # Without responses to share, as on a node that only forwards, no key is needed.
        key = self._shared.key(event) if self._shared else None
        found = self._shared.get(key) if key is not None and not event.early else None
        if found is None:
            self._answer(event, key, came_s)
            return
        headers, body, site = found
        is_file = isinstance(body, FileRange)
        if is_file and not self._open_files.may_send(event.connection, body):
            self._answer(event, key, came_s)
            return
        if self._respond(event.stream, 200, headers, body) and is_file:
            self._open_files.sent(event.connection, event.stream, body)
        self._accounts.answered(event, self._revision, 200, body_length(body), came_s, site=site)

    def _on_body(self, event: BodyReceived) -> None:
        if self._forwards is None or not self._forwards.on_body(event):
            self._exchanges.on_body(event)

    def _on_upstream_ended(self, event: UpstreamEnded) -> None:
        if self._forwards is not None:
            self._forwards.on_ended(event)

    def _forward(
        self, exchange: Exchange, event: RequestReceived, revision: Revision | None, forward: Forward, started_s: float
    ) -> None:
        assert self._forwards is not None and revision is not None, "only an engine that forwards gets it"  # noqa: PT018
        self._forwards.start(exchange, event, revision, forward, started_s)

    def _forwarded(self, job: Job, status: int, body_bytes: int) -> None:
        self._accounts.answered(job.event, job.revision, status, body_bytes, job.started_s, exchange=job.exchange)

    def _on_writable(self, event: StreamWritable) -> None:
        exchange = self._open.get(event.stream)
        if exchange is not None and exchange.writable is not None:
            self.responses.resume(exchange)

    def _on_stream_closed(self, event: StreamClosed) -> None:
        if self._turns.backlog.waiting:
            self._turns.backlog.drop(event.stream)
        if self._open_files.in_flight:
            self._open_files.release(event.stream)
        exchange = self._open.pop(event.stream, None)
        if exchange is None:
            return
        if exchange.task is not None:
            exchange.task.cancel()
        elif exchange.forwarded and self._forwards is not None:
            self._forwards.on_stream_closed(event.stream)

    def _defer(self, event: RequestReceived) -> None:
        """Answer a request in a later turn; with 503 now if too much waits already."""
        came_s = self._clock()
        exchange = self._exchanges.create(event)

        def work() -> None:
            if event.fin:
                del self._open[event.stream]  # a response that is sent at once leaves no state
            self._serve(event, came_s)

        if self._turns.later(event.connection, event.stream, work, weight_of(event)):
            self._open[event.stream] = exchange
            self._deferred += 1
            return
        self._shed += 1
        if not event.fin:
            self._open[event.stream] = exchange
        response = plain(503, "", (b"retry-after", b"1"))
        self.responses.send(exchange, response)
        self._accounts.answered(event, self._revision, 503, body_length(response.body), came_s)
        self._exchanges.finish(exchange)

    def _answer(self, event: RequestReceived, key: Key | None, started_s: float) -> None:
        stream = event.stream
        revision = self._revision
        exchange = self._open.get(stream) or self._exchanges.create(event)
        if not event.fin:
            self._open[stream] = exchange
        may_share = False
        try:
            trusted = None if revision is None else revision.trusted
            peer = self.connections.peers.get(event.connection)
            request = None if event.fields_too_large else request_of(event, exchange.body, peer, trusted)
            if revision is None or request is None:
                status = 503 if revision is None else 431 if event.fields_too_large else 400
                result: Response | Awaitable[Answer] = plain(status)
            else:
                pipeline = revision.find(request)
                self._accounts.begin(request, revision)
                exchange.request, exchange.site, may_share = request, pipeline.site, pipeline.may_share
                if request.method == b"CONNECT" and not (pipeline.tunnels and request.protocol == b"websocket"):
                    answer: Any = plain(501)  # RFC 9220 section 3, RFC 9110 section 15.6.2
                else:
                    answer = pipeline.handle(request)
                if isinstance(answer, Forward):
                    self._forward(exchange, event, revision, answer, started_s)
                    return
                result = answer
        except Exception as error:
            result = internal_error(error, event)
        if isinstance(result, Response):
            result = self.responses.within_bounds(event, result)
        if not isinstance(result, Response) or not isinstance(result.body, COMPLETE):
            self._open[stream] = exchange
            self._turns.charge_step()
            if exchange.request is not None:
                exchange.request.inform = partial(self.responses.inform, stream)
            exchange.task = self._start(self._run(exchange, event, revision, result, started_s))
            if revision is not None:
                revision.enter()

            def ended(task: asyncio.Task[None]) -> None:
                if task.cancelled():  # perhaps before it had begun
                    self._accounts.answered(event, revision, CLIENT_GONE, 0, started_s, exchange=exchange)
                if revision is not None:
                    revision.leave(result)

            exchange.task.add_done_callback(ended)
            return
        if self.responses.send(exchange, result) and may_share and result.shared and result.status == 200:
            key = key or self._shared.key(event)
            if isinstance(result.body, FileRange) and self._open_files.crowded:
                self._shared.forget()  # shared responses keep their files open
            elif key is not None:
                self._shared.remember(key, result, exchange.site)
        length = body_length(result.body)
        self._accounts.answered(event, revision, result.status, length, started_s, exchange=exchange)
        self._exchanges.finish(exchange)

    async def _run(
        self,
        exchange: Exchange,
        event: RequestReceived,
        revision: Revision | None,
        result: Response | Awaitable[Answer],
        started_s: float,
    ) -> None:
        """Wait for a handler's response, then for its chunks. Raises nothing but CancelledError."""
        try:
            try:
                answer = result if isinstance(result, Response) else await result
            except Exception as error:
                answer = internal_error(error, event)
            if isinstance(answer, Forward):
                exchange.task = None
                self._forward(exchange, event, revision, answer, started_s)
                return
            response = self.responses.within_bounds(event, answer)
            if not isinstance(response.body, COMPLETE):
                sent = await self.responses.stream(exchange, response, response.body, event)
            else:
                self.responses.send(exchange, response)
                sent = body_length(response.body)
            self._accounts.answered(event, revision, response.status, sent, started_s, exchange=exchange)
        finally:
            exchange.task = None
            if not exchange.forwarded:
                self._exchanges.finish(exchange)
            self._flush_soon()
