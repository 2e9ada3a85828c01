"""The request streams of one connection: their data as requests and bodies, and how each of them ends.

A stream ends with its answer acknowledged and its request complete, by a reset of either side, or because we give it
up. What still comes on a stream that was given up is thrown away. A stream that fails is a glitch; too many of them in
a second close the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic.h3.connection import ErrorCode
from aioquic.h3.events import DataReceived
from aioquic.quic import events as quic_events

from velocity_edge.http.requests import BodyReceived, Event, RequestReceived, StreamClosed, StreamWritable
from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.connection import EdgeConnection
from velocity_edge.quic.portable.h3 import EdgeH3, RequestHead, StreamError
from velocity_edge.quic.portable.outbox import Outbox, Stream
from velocity_edge.quic.portable.waiting import Waiting


class Streams:
    """The streams that a handler knows, by stream id, and those that we gave up."""

    def __init__(
        self,
        connection: int,
        quic: EdgeConnection,
        outbox: Outbox,
        waiting: Waiting,
        limits: Limits,
        count: dict[str, int],
        new_stream: Callable[[Stream], int],
    ) -> None:
        """*connection* is its handle; *new_stream* returns one for a request."""
        self.open: dict[int, Stream] = {}
        self.h3: EdgeH3 | None = None
        self._connection = connection
        self._new_stream = new_stream
        self._quic = quic
        self._outbox = outbox
        self._waiting = waiting
        self._limits = limits
        self._count = count
        self._glitches = PerSecond(limits.max_glitches_per_s)
        self._abandoned: set[int] = set()
        self._seen = 0

    def use_limits(self, limits: Limits) -> None:
        """Use these limits from now on."""
        self._limits = limits
        self._glitches.limit = limits.max_glitches_per_s

    def is_abandoned(self, stream_id: int) -> bool:
        """Whether we gave it up."""
        return stream_id in self._abandoned

    def start_http(self) -> EdgeH3:
        """Return the HTTP/3 connection; the first call makes it, which sends SETTINGS."""
        if self.h3 is None:
            self.h3 = EdgeH3(self._quic, self._limits)
        return self.h3

    def data_received(
        self, event: quic_events.StreamDataReceived, now_ns: int, out: list[Event], *, early: bool
    ) -> None:
        """Take stream data; append requests and bodies. *early*: the handshake is not complete (0-RTT)."""
        stream_id, length = event.stream_id, len(event.data)
        if self.is_abandoned(stream_id):
            self._quic.consume_all(stream_id)
            return
        h3 = self.start_http()
        body = 0
        try:
            for http in h3.receive(event):
                if isinstance(http, RequestHead):
                    self._waiting.end(stream_id)
                    out.append(self._request(http, early))
                    continue
                stream = self.open.get(stream_id)
                if stream is None:
                    continue
                data = http.data if isinstance(http, DataReceived) else b""
                if not isinstance(http, DataReceived):
                    stream.trailers = http.headers
                body += len(data)
                stream.request_ended = http.stream_ended
                if data or http.stream_ended:
                    trailers, stream.trailers = (stream.trailers, ()) if http.stream_ended else ((), stream.trailers)
                    out.append(BodyReceived(stream.handle, data, http.stream_ended, trailers))
        except StreamError as error:
            self.glitch(now_ns)
            self.close(stream_id, error.error_code, out)
            self.abandon(stream_id, error.error_code)
            return
        # Framing and header sections are consumed now; a body is consumed by its handler (`credit`).
        self._quic.consume(stream_id, length - body)

    def _request(self, request: RequestHead, early: bool) -> RequestReceived:
        head = request.head
        stream = Stream(0, request.stream_id, head.method == b"HEAD", request.fin, bool(head.protocol))
        stream.handle = self._new_stream(stream)
        self.open[request.stream_id] = stream
        self._count["requests"] += 1
        return RequestReceived(
            connection=self._connection,
            stream=stream.handle,
            method=head.method,
            scheme=head.scheme,
            authority=head.authority,
            path=head.path,
            headers=head.fields,
            fin=request.fin,
            early=early,
            fields_too_large=request.too_large,
            protocol=head.protocol,
        )

    def reset_received(self, event: Any, now_ns: int, out: list[Event]) -> None:
        """The peer gave up a stream: it no longer sends (StreamReset), or no longer reads (StopSendingReceived)."""
        if self.h3 is not None:
            self.h3.handle_event(event)
        if event.stream_id % 4 or self.is_abandoned(event.stream_id):
            return  # of a request that we gave up ourselves
        stream = self.open.get(event.stream_id)
        if stream is not None and event.stream_id in self._waiting and isinstance(event, quic_events.StreamReset):
            stream.request_ended = True  # answered: there is nothing left to reset
            return
        self._count["streams_reset"] += 1
        self.glitch(now_ns)
        self.close(event.stream_id, event.error_code, out)
        self.abandon(event.stream_id, ErrorCode.H3_REQUEST_CANCELLED)

    def note_new(self, now_ns: int) -> None:
        """Wait for the header sections of streams that the peer has opened since the last call."""
        opened = self._quic.peer_opened_requests
        for stream_id in range(4 * self._seen, 4 * opened, 4):
            if stream_id not in self.open and stream_id not in self._abandoned and self._quic.stream(stream_id):
                self._waiting.begin(stream_id, now_ns)
        self._seen = opened

    def settle(self, now_ns: int, out: list[Event]) -> None:
        """End the streams that are complete, wake writers that have room, and account for what is in memory."""
        done: list[Stream] = []
        for stream in self.open.values():
            quic_stream = self._quic.stream(stream.stream_id)
            if quic_stream is None:
                done.append(stream)
            elif quic_stream.sender.is_finished:
                # The rest of the request is thrown away for a while: Chromium never shows an answer when it is asked to
                # stop before it has sent everything.
                if stream.request_ended:
                    done.append(stream)
                elif not stream.tunnel:
                    self._waiting.begin(stream.stream_id, now_ns)
            elif stream.waiting and self._outbox.backlog(stream) < self._limits.send_low_bytes:
                stream.waiting = False
                out.append(StreamWritable(stream.handle))
        self._outbox.account(self.open.values())
        for stream in done:
            self.close(stream.stream_id, 0, out, complete=True)
            self.abandon(stream.stream_id, None)
        if len(self._abandoned) > 2 * self._limits.max_streams_bidi:
            self._abandoned &= self._quic.stream_ids()

    def glitch(self, now_ns: int) -> None:
        """Count a stream that failed; close the connection when there are too many."""
        self._count["glitches"] += 1
        if not self._glitches.take(now_ns):
            self._quic.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="too many streams failed")

    def close(self, stream_id: int, error_code: int, out: list[Event], *, complete: bool = False) -> None:
        """Report the end of a stream that a handler knows."""
        stream = self.open.pop(stream_id, None)
        if stream is not None:
            out.append(StreamClosed(stream.handle, complete and stream.ended, error_code))

    def close_all(self, error_code: int, out: list[Event]) -> None:
        """Report the end of all of them."""
        for stream_id in list(self.open):
            self.close(stream_id, error_code, out)

    def abandon(self, stream_id: int, error_code: int | None) -> None:
        """Neither read nor write it any more; tell the peer unless the answer is complete (error_code None)."""
        self._waiting.end(stream_id)
        if self.h3 is not None:
            self.h3.forget(stream_id)
        quic_stream = self._quic.stream(stream_id)
        if quic_stream is None:
            return
        self._abandoned.add(stream_id)
        self._quic.consume_all(stream_id)
        if error_code is not None:
            self._quic.reset_stream(stream_id, int(error_code))
        if not quic_stream.receiver.is_finished:
            # RFC 9114 section 4.1: after a complete answer, H3_NO_ERROR asks to stop sending the request.
            self._quic.stop_stream(stream_id, int(ErrorCode.H3_NO_ERROR if error_code is None else error_code))
