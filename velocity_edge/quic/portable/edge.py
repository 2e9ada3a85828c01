"""One connection as the seam sees it: aioquic's events in, events of engine.py out, answers back.

It knows streams by handle, feeds request bodies with back-pressure, times out requests that never complete, counts
glitches, and notices the end. Answers wait in its outbox (outbox.py); connections and their ids are in a table
(table.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from aioquic.h3.connection import ErrorCode
from aioquic.h3.events import DataReceived
from aioquic.quic import events as quic_events

from velocity_edge.http.requests import (
    BodyReceived,
    ConnectionClosed,
    Event,
    FileRange,
    HandshakeCompleted,
    RequestReceived,
    StreamClosed,
    StreamWritable,
)
from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.connection import EdgeConnection
from velocity_edge.quic.portable.h3 import EdgeH3, RequestHead, StreamError
from velocity_edge.quic.portable.outbox import Held, Outbox, Stream

log = logging.getLogger(__name__)


def _nanoseconds(timer_s: float) -> int:
    """A microsecond late on purpose: rounded down by a digit, aioquic would find nothing due and we would spin."""
    return int(timer_s * 1e9) + 1000


class Edge:
    """One connection."""

    def __init__(
        self,
        handle: int,
        quic: EdgeConnection,
        limits: Limits,
        held: Held,
        count: dict[str, int],
        new_stream: Callable[[Stream], int],
        retire_id: Callable[[Edge, bytes], None],
        opened_ns: int,
    ) -> None:
        self.handle = handle
        self.quic = quic
        self.opened_ns = opened_ns
        self.cids: set[bytes] = set()
        #: CID config id -> ids issued under it that the peer has not given back.
        self.held: dict[int, int] = {}
        self.retired: deque[bytes] = deque()
        #: The engine's generation of keys that it was renamed for last.
        self.named = 0
        self.completed = False
        #: The handshake took too long.
        self.timed_out = False
        self.closed = False
        self.streams: dict[int, Stream] = {}
        self._limits = limits
        self._count = count
        self._outbox = Outbox(quic, limits, held)
        self._new_stream = new_stream
        self._retire_id = retire_id
        self._h3: EdgeH3 | None = None
        self._path: Any = None
        self._glitches = PerSecond(limits.max_glitches_per_s)
        #: Streams that wait for their peer, oldest first, and since when: for the header section, or, when the whole
        #: answer arrived before it, for the request's end.
        self._headless: dict[int, int] = {}
        self._seen_requests = 0
        #: What the peer has taken of its answers (None: nothing waits for it), since when, and when it gets a PING.
        self._taken: int | None = None
        self._taken_ns = self._ping_ns = 0
        #: Streams that we gave up; what still comes on them is thrown away.
        self._abandoned: set[int] = set()

    def use_limits(self, limits: Limits) -> None:
        """Live by other limits, as far as nothing else was promised."""
        self._limits = limits.for_connection_of(self._limits)
        self._outbox.use_limits(self._limits)
        self._glitches.limit = limits.max_glitches_per_s
        self.quic.use_limits(limits)

    # --- time ---------------------------------------------------------------------------------------------------------

    def deadline_ns(self) -> int | None:
        """Return when `expire` is due."""
        deadlines = [_nanoseconds(timer_s)] if (timer_s := self.quic.get_timer()) is not None else []
        if not self.completed:
            deadlines.append(self.opened_ns + int(self._limits.handshake_timeout_s * 1e9))
        if self._headless:
            since_ns = next(iter(self._headless.values()))
            deadlines.append(since_ns + int(self._limits.request_timeout_s * 1e9))
        if self._taken is not None:
            deadlines += [self._ping_ns, self._taken_ns + int(self._limits.stall_timeout_s * 1e9)]
        return min(deadlines) if deadlines else None

    def handshake_overdue(self, now_ns: int) -> bool:
        """Whether the handshake took too long."""
        return not self.completed and now_ns >= self.opened_ns + int(self._limits.handshake_timeout_s * 1e9)

    def expire(self, now_ns: int) -> None:
        """Do what is due."""
        timer_s = self.quic.get_timer()
        if timer_s is not None and now_ns >= _nanoseconds(timer_s):
            self.quic.handle_timer(now_ns / 1e9)
        self._keep_alive(now_ns)
        while self._headless:
            stream_id, since_ns = next(iter(self._headless.items()))
            if now_ns < since_ns + int(self._limits.request_timeout_s * 1e9):
                break
            stream = self.streams.get(stream_id)
            if stream is not None:
                # Answered: nobody wants the rest (RFC 9114 section 4.1); `_settle_streams` asks to stop.
                stream.request_ended = True
                del self._headless[stream_id]
                continue
            self._glitch(now_ns)
            self._abandon(stream_id, ErrorCode.H3_REQUEST_REJECTED)

    def watch(self, now_ns: int) -> None:
        """Note whether answers wait for the peer, and whether it took something."""
        taken = self._outbox.taken(self.streams.values())
        if taken != self._taken:
            if self._taken is None:
                self._ping_ns = now_ns + int(self.quic.idle_timeout_s / 3 * 1e9)
            self._taken, self._taken_ns = taken, now_ns

    def _keep_alive(self, now_ns: int) -> None:
        """RFC 9000 section 4.1: a sender without credit keeps the connection alive; not for ever."""
        if self._taken is None:
            return
        if now_ns >= self._taken_ns + int(self._limits.stall_timeout_s * 1e9):
            self._count["stalled"] += 1
            self._taken = None
            self.quic.close(
                error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="nothing of the answers was taken for too long"
            )
        elif now_ns >= self._ping_ns:
            self.quic.send_ping(0)
            self._ping_ns = now_ns + int(self.quic.idle_timeout_s / 3 * 1e9)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def collect(self, now_ns: int, out: list[Event]) -> None:
        """Append what happened since the last call."""
        quic = self.quic
        # What came before the peer's CONNECTION_CLOSE still counts; after an error of the peer's nothing does.
        while not quic.close_pending and (event := quic.next_event()) is not None:
            if isinstance(event, quic_events.StreamDataReceived):
                self._stream_data(event, now_ns, out)
            elif isinstance(event, quic_events.HandshakeCompleted):
                self._handshake_completed(now_ns, out)
            elif isinstance(event, quic_events.StreamReset | quic_events.StopSendingReceived):
                self._stream_reset(event, now_ns, out)
            elif isinstance(event, quic_events.ConnectionIdRetired):
                self._retire_id(self, event.connection_id)
        self._note_new_streams(now_ns)
        self._count["migrations_refused"] += quic.migrations_refused
        quic.migrations_refused = 0
        if quic.close_event is not None:
            self._report_closed(out)
            return
        self._settle_streams(now_ns, out)
        path = quic.active_path
        if path != self._path:
            self._count["migrations"] += self._path is not None
            self._path = path

    def _handshake_completed(self, now_ns: int, out: list[Event]) -> None:
        self.completed = True
        handshake = self.quic.adapter.handshake
        assert handshake is not None
        if self._h3 is None:
            self._h3 = EdgeH3(self.quic, self._limits)
        out.append(
            HandshakeCompleted(
                connection=self.handle,
                peer=self.quic.active_path[0],
                alpn=handshake.alpn,
                group=handshake.group,
                cipher_suite=handshake.cipher_suite,
                signature_scheme=handshake.signature_scheme,
                server_name=handshake.server_name,
                resumed=handshake.resumed,
                early_data_accepted=handshake.early_data_accepted,
                duration_ns=now_ns - self.opened_ns,
            )
        )

    def _stream_data(self, event: quic_events.StreamDataReceived, now_ns: int, out: list[Event]) -> None:
        stream_id, length = event.stream_id, len(event.data)
        if stream_id in self._abandoned:
            self.quic.consume_all(stream_id)
            return
        if self._h3 is None:
            # 0-RTT: requests come before the handshake completes.
            self._h3 = EdgeH3(self.quic, self._limits)
        body = 0
        try:
            for http in self._h3.receive(event):
                if isinstance(http, RequestHead):
                    self._headless.pop(stream_id, None)
                    out.append(self._request(http))
                    continue
                stream = self.streams.get(stream_id)
                if stream is None:
                    continue
                data = http.data if isinstance(http, DataReceived) else b""
                body += len(data)
                stream.request_ended = http.stream_ended
                if data or http.stream_ended:
                    out.append(BodyReceived(stream.handle, data, http.stream_ended))
        except StreamError as error:
            self._glitch(now_ns)
            self._close_stream(stream_id, error.error_code, out)
            self._abandon(stream_id, error.error_code)
            return
        # Framing and header sections are used up; a body when its handler says so (`credit`).
        self.quic.consume(stream_id, length - body)

    def _request(self, request: RequestHead) -> RequestReceived:
        head = request.head
        stream = Stream(0, self, request.stream_id, head.method == b"HEAD", request.fin)
        stream.handle = self._new_stream(stream)
        self.streams[request.stream_id] = stream
        self._count["requests"] += 1
        return RequestReceived(
            connection=self.handle,
            stream=stream.handle,
            method=head.method,
            scheme=head.scheme,
            authority=head.authority,
            path=head.path,
            headers=head.fields,
            fin=request.fin,
            early=not self.completed,
            fields_too_large=request.too_large,
        )

    def _stream_reset(self, event: Any, now_ns: int, out: list[Event]) -> None:
        """The peer gave up a stream: it no longer sends (StreamReset), or no longer listens (StopSendingReceived)."""
        if self._h3 is not None:
            self._h3.handle_event(event)
        if event.stream_id % 4 or event.stream_id in self._abandoned:
            return  # of a request that we gave up ourselves
        stream = self.streams.get(event.stream_id)
        if stream is not None and event.stream_id in self._headless and isinstance(event, quic_events.StreamReset):
            stream.request_ended = True  # answered: there is nothing left to reset
            return
        self._count["streams_reset"] += 1
        self._glitch(now_ns)
        self._close_stream(event.stream_id, event.error_code, out)
        self._abandon(event.stream_id, ErrorCode.H3_REQUEST_CANCELLED)

    def _note_new_streams(self, now_ns: int) -> None:
        opened = self.quic.peer_opened_requests
        for stream_id in range(4 * self._seen_requests, 4 * opened, 4):
            if stream_id not in self.streams and stream_id not in self._abandoned and self.quic.stream(stream_id):
                self._headless[stream_id] = now_ns
        self._seen_requests = opened

    def _settle_streams(self, now_ns: int, out: list[Event]) -> None:
        done: list[Stream] = []
        for stream in self.streams.values():
            quic_stream = self.quic.stream(stream.stream_id)
            if quic_stream is None:
                done.append(stream)
            elif quic_stream.sender.is_finished:
                # The rest of the request is thrown away for a while: Chromium never shows an answer when it is asked to
                # stop before it has sent everything.
                if stream.request_ended:
                    done.append(stream)
                else:
                    self._headless.setdefault(stream.stream_id, now_ns)
            elif stream.waiting and self._outbox.backlog(stream) < self._limits.send_low_bytes:
                stream.waiting = False
                out.append(StreamWritable(stream.handle))
        self._outbox.account(self.streams.values())
        for stream in done:
            self._close_stream(stream.stream_id, 0, out, complete=True)
            self._abandon(stream.stream_id, None)
        if len(self._abandoned) > 2 * self._limits.max_streams_bidi:
            self._abandoned &= self.quic.stream_ids()

    def _report_closed(self, out: list[Event]) -> None:
        if self.closed:
            return
        self.closed = True
        self._count["memory_exceeded"] += self.quic.memory_exceeded
        event = self.quic.close_event
        timed_out = self.quic.idled_out
        for stream_id in list(self.streams):
            self._close_stream(stream_id, event.error_code, out)
        out.append(
            ConnectionClosed(
                connection=self.handle,
                error_code=0 if timed_out else event.error_code,
                application=event.frame_type is None,
                by_peer=self.quic.draining,
                reason="idle timeout" if timed_out else event.reason_phrase,
                handshake_completed=self.completed,
            )
        )

    def release(self) -> None:
        """Nothing of it will be sent any more."""
        self._outbox.account(())

    def fail(self, reason: str, out: list[Event]) -> None:
        """End it without a word to the peer: the streams close, then the connection."""
        if self.closed:
            return
        self.closed = True
        for stream_id in list(self.streams):
            self._close_stream(stream_id, 0, out)
        out.append(ConnectionClosed(self.handle, 0, False, False, reason, self.completed))

    def _glitch(self, now_ns: int) -> None:
        self._count["glitches"] += 1
        if not self._glitches.take(now_ns):
            self.quic.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="too many streams went wrong")

    def _close_stream(self, stream_id: int, error_code: int, out: list[Event], *, complete: bool = False) -> None:
        """Report the end of a stream that a handler knows."""
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            out.append(StreamClosed(stream.handle, complete and stream.ended, error_code))

    def _abandon(self, stream_id: int, error_code: int | None) -> None:
        """Neither read nor write it any more; tell the peer unless the answer is complete (error_code None)."""
        self._headless.pop(stream_id, None)
        if self._h3 is not None:
            self._h3.forget(stream_id)
        quic_stream = self.quic.stream(stream_id)
        if quic_stream is None:
            return
        self._abandoned.add(stream_id)
        self.quic.consume_all(stream_id)
        if error_code is not None:
            self.quic.reset_stream(stream_id, int(error_code))
        if not quic_stream.receiver.is_finished:
            # RFC 9114 section 4.1: after a complete answer, H3_NO_ERROR asks to stop sending the request.
            self.quic.stop_stream(stream_id, int(ErrorCode.H3_NO_ERROR if error_code is None else error_code))

    # --- answers ------------------------------------------------------------------------------------------------------

    def respond(
        self,
        stream: Stream,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | FileRange | None,
        fin: bool,
    ) -> bool:
        """Queue a response. 1xx leaves the stream unanswered."""
        if self.closed or stream.answered or self._h3 is None or self.quic.close_event is not None:
            return False
        self._count[f"responses_{status // 100}xx"] += 1
        self._outbox.respond(stream, status, self._h3.head_frame(stream.stream_id, status, headers), body, fin)
        return True

    def write(self, stream: Stream, data: bytes, fin: bool) -> int:
        """Queue more of a body; return what is buffered, or -1."""
        if self.closed or stream.ended or not stream.answered or self.quic.close_event is not None:
            return -1
        return self._outbox.write(stream, data, fin)

    def pump(self, out: list[Event]) -> bool:
        """Read on in files and large bodies as far as the bounds allow. True when there is more to read."""
        more, broken = self._outbox.pump(self.streams.values())
        for stream in broken:
            self.reset(stream, int(ErrorCode.H3_INTERNAL_ERROR), out)
        return more

    def credit(self, stream: Stream, n_bytes: int) -> None:
        """The handler has consumed that much of the body."""
        self.quic.consume(stream.stream_id, n_bytes)

    def reset(self, stream: Stream, error_code: int, out: list[Event]) -> None:
        """Abandon a stream both ways."""
        self._close_stream(stream.stream_id, error_code, out)
        self._abandon(stream.stream_id, error_code)

    def rename(self, config_id: int) -> bool:
        """Give the client ids of this configuration and have it retire the others; False: it is too early for that."""
        if not self.completed or self.closed:
            return False
        return set(self.held) == {config_id} or self.quic.rename()

    def goaway(self, final: bool) -> None:
        """Send GOAWAY; nothing to say before HTTP/3 began."""
        if self._h3 is not None and not self.closed:
            self._h3.goaway(final=final)
