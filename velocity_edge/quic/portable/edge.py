"""One connection as the engine sees it: aioquic's events in, events of http/requests.py out, answers back.

It reports the handshake and the end, and does what timers ask. Its streams are in streams.py, what it waits for in
waiting.py, its answers in outbox.py; connections and their ids are in a table (table.py).

Long because everything that an engine asks of a connection is here, one short method each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from aioquic.h3.connection import ErrorCode
from aioquic.quic import events as quic_events

from velocity_edge.http.requests import ConnectionClosed, Event, FileRange, HandshakeCompleted, Headers
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.connection import EdgeConnection
from velocity_edge.quic.portable.outbox import Held, Outbox, Stream
from velocity_edge.quic.portable.streams import Streams
from velocity_edge.quic.portable.waiting import Answers, Waiting


def _nanoseconds(timer_s: float) -> int:
    """Return a microsecond more: rounded down, aioquic would find nothing due and the loop would spin."""
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
        new_stream: Callable[[Edge, Stream], int],
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
        self._limits = limits
        self._count = count
        self._outbox = Outbox(quic, limits, held)
        self._waiting = Waiting(limits)
        self._streams = Streams(
            handle, quic, self._outbox, self._waiting, limits, count, lambda stream: new_stream(self, stream)
        )
        self._retire_id = retire_id
        self._path: Any = None

    @property
    def streams(self) -> Collection[Stream]:
        """The streams that a handler knows."""
        return self._streams.open.values()

    def use_limits(self, limits: Limits) -> None:
        """Use other limits, as far as nothing else was promised."""
        self._limits = limits.for_connection_of(self._limits)
        self._outbox.use_limits(self._limits)
        self._waiting.limits = self._limits
        self._streams.use_limits(self._limits)
        self.quic.use_limits(limits)

    # --- time ---------------------------------------------------------------------------------------------------------

    def deadline_ns(self) -> int | None:
        """Return when `expire` is due."""
        deadlines = [_nanoseconds(timer_s)] if (timer_s := self.quic.get_timer()) is not None else []
        if not self.completed:
            deadlines.append(self.opened_ns + int(self._limits.handshake_timeout_s * 1e9))
        deadlines += self._waiting.deadlines_ns()
        return min(deadlines) if deadlines else None

    def handshake_overdue(self, now_ns: int) -> bool:
        """Whether the handshake took too long."""
        return not self.completed and now_ns >= self.opened_ns + int(self._limits.handshake_timeout_s * 1e9)

    def expire(self, now_ns: int) -> None:
        """Do what is due."""
        timer_s = self.quic.get_timer()
        if timer_s is not None and now_ns >= _nanoseconds(timer_s):
            self.quic.handle_timer(now_ns / 1e9)
        match self._waiting.answers(self.quic.idle_timeout_s, now_ns):
            case Answers.STALLED:
                self._count["stalled"] += 1
                reason = "the client does not read its responses"
                self.quic.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase=reason)
            case Answers.PING:
                self.quic.send_ping(0)
        while (stream_id := self._waiting.overdue(now_ns)) is not None:
            stream = self._streams.open.get(stream_id)
            if stream is not None:
                # Answered: the rest is not needed (RFC 9114 section 4.1); `Streams.settle` asks to stop.
                stream.request_ended = True
                self._waiting.end(stream_id)
                continue
            self._streams.glitch(now_ns)
            self._streams.abandon(stream_id, ErrorCode.H3_REQUEST_REJECTED)

    def watch(self, now_ns: int) -> None:
        """Note whether answers wait for the peer, and whether it took something."""
        self._waiting.note_taken(self._outbox.taken(self.streams), self.quic.idle_timeout_s, now_ns)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def collect(self, now_ns: int, out: list[Event]) -> None:
        """Append what happened since the last call."""
        quic = self.quic
        # What came before the peer's CONNECTION_CLOSE still counts; what came with an error of the peer does not.
        while not quic.close_pending and (event := quic.next_event()) is not None:
            if isinstance(event, quic_events.StreamDataReceived):
                self._streams.data_received(event, now_ns, out, early=not self.completed)
            elif isinstance(event, quic_events.HandshakeCompleted):
                self._handshake_completed(now_ns, out)
            elif isinstance(event, quic_events.StreamReset | quic_events.StopSendingReceived):
                self._streams.reset_received(event, now_ns, out)
            elif isinstance(event, quic_events.ConnectionIdRetired):
                self._retire_id(self, event.connection_id)
        self._streams.note_new(now_ns)
        self._count["migrations_refused"] += quic.migrations_refused
        quic.migrations_refused = 0
        if quic.close_event is not None:
            self._report_closed(out)
            return
        self._streams.settle(now_ns, out)
        path = quic.active_path
        if path != self._path:
            self._count["migrations"] += self._path is not None
            self._path = path

    def _handshake_completed(self, now_ns: int, out: list[Event]) -> None:
        self.completed = True
        handshake = self.quic.adapter.handshake
        assert handshake is not None
        self._streams.start_http()
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

    def _report_closed(self, out: list[Event]) -> None:
        if self.closed:
            return
        self.closed = True
        self._count["memory_exceeded"] += self.quic.memory_exceeded
        event = self.quic.close_event
        timed_out = self.quic.idled_out
        self._streams.close_all(event.error_code, out)
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
        """Account for nothing any more: nothing of it will be sent."""
        self._outbox.account(())

    def fail(self, reason: str, out: list[Event]) -> None:
        """End it without a packet to the peer: the streams close, then the connection."""
        if self.closed:
            return
        self.closed = True
        self._streams.close_all(0, out)
        out.append(ConnectionClosed(self.handle, 0, False, False, reason, self.completed))

    # --- answers ------------------------------------------------------------------------------------------------------

    def respond(
        self,
        stream: Stream,
        status: int,
        headers: Headers,
        body: bytes | FileRange | None,
        fin: bool,
    ) -> bool:
        """Queue a response. 1xx leaves the stream unanswered."""
        h3 = self._streams.h3
        if self.closed or stream.answered or h3 is None or self.quic.close_event is not None:
            return False
        if not self._outbox.respond(stream, status, h3.head_frame(stream.stream_id, status, headers), body, fin):
            return False
        self._count[f"responses_{status // 100}xx"] += 1
        return True

    def write(self, stream: Stream, data: bytes, fin: bool) -> int:
        """Queue more of a body; return what is buffered, or -1."""
        return self._outbox.write(stream, data, fin) if self._takes_more(stream) else -1

    def trailers(self, stream: Stream, fields: Headers) -> bool:
        """Queue the end of a response."""
        h3 = self._streams.h3
        if h3 is None or not self._takes_more(stream):
            return False
        self._outbox.end(stream, h3.trailers_frame(stream.stream_id, fields) if fields else b"")
        return True

    def _takes_more(self, stream: Stream) -> bool:
        return not self.closed and stream.answered and not stream.ended and self.quic.close_event is None

    def pump(self, out: list[Event]) -> bool:
        """Read on in files and large bodies as far as the bounds allow. True when there is more to read."""
        more, broken = self._outbox.pump(self.streams)
        for stream in broken:
            self.reset(stream, int(ErrorCode.H3_INTERNAL_ERROR), out)
        return more

    def credit(self, stream: Stream, n_bytes: int) -> None:
        """The handler has consumed that much of the body."""
        self.quic.consume(stream.stream_id, n_bytes)

    def reset(self, stream: Stream, error_code: int, out: list[Event]) -> None:
        """Abandon a stream both ways."""
        self._streams.close(stream.stream_id, error_code, out)
        self._streams.abandon(stream.stream_id, error_code)

    def rename(self, config_id: int) -> bool:
        """Give the client ids of this configuration and have it retire the others; False: it is too early for that."""
        if not self.completed or self.closed:
            return False
        return set(self.held) == {config_id} or self.quic.rename()

    def goaway(self, final: bool) -> None:
        """Send GOAWAY; nothing before HTTP/3 began."""
        if self._streams.h3 is not None and not self.closed:
            self._streams.h3.goaway(final=final)
