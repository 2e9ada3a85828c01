"""What follows for a connection after anything happened to it: its events, its timer, its turn to send, its end.

All connections of an engine share one `Care`: the table, the counters, the events that wait for the endpoint, and the
connections that have something to send.

A connection that makes aioquic or our own code raise is closed with INTERNAL_ERROR and logged: a bug in one connection,
possibly provoked by a peer, must not end the others.
"""

from __future__ import annotations

import logging

from aioquic.quic.packet import QuicErrorCode

from velocity_edge.http.requests import Event, HandshakeCompleted, StreamClosed
from velocity_edge.quic.portable.edge import Edge
from velocity_edge.quic.portable.ids import Ids
from velocity_edge.quic.portable.table import Table

log = logging.getLogger(__name__)


class Care:
    """The state that all turns of an engine share, and what is done for a connection in each of them."""

    def __init__(self, max_farewells: int, count: dict[str, int]) -> None:
        self.count = count
        self.table = Table(count, max_farewells)
        #: Connections that may have something to send, in turn.
        self.dirty: dict[Edge, None] = {}
        self.events: list[Event] = []
        self.ids: Ids | None = None
        #: Counts the changes of what issues connection IDs.
        self.generation = 0
        self.now_ns = 0

    def use_ids(self, ids: Ids) -> None:
        """Issue ids by *ids* from now on."""
        if self.ids is not None and self.ids.config_id != ids.config_id:
            self.generation += 1
        self.ids = ids

    def take_events(self) -> list[Event]:
        """Return and forget the events that wait."""
        events, self.events = self.events, []
        return events

    def after(self, edge: Edge, now_ns: int) -> None:
        """Take the events of *edge*, note that it may have to send, arm its timer, or end it."""
        if edge.handle not in self.table.edges:
            return
        if edge.named != self.generation and self.ids is not None and edge.rename(self.ids.config_id):
            # The keys have changed: its client gets new ids now that it is awake. No client is woken for it.
            edge.named = self.generation
        first = len(self.events)
        try:
            edge.collect(now_ns, self.events)
        except Exception as error:
            self.connection_failed(edge, error)
            edge.collect(now_ns, self.events)
        for event in self.events[first:]:
            if isinstance(event, HandshakeCompleted):
                self.table.note_handshake(edge, event)
        self.forget_closed_streams(first)
        quic = edge.quic
        if quic.terminated:
            self.table.remove(edge)
        elif quic.draining:
            self.table.bury(edge, [], self.now_ns)
        else:
            self.dirty[edge] = None
            self.arm(edge)

    def forget_closed_streams(self, first: int) -> None:
        """Drop the handles of streams whose end is among the events from *first* on."""
        for event in self.events[first:]:
            if isinstance(event, StreamClosed):
                self.table.streams.pop(event.stream, None)

    def arm(self, edge: Edge) -> None:
        """Set its timer."""
        deadline_ns = edge.deadline_ns()
        if deadline_ns is not None:
            self.table.calendar.set(edge, deadline_ns)

    def connection_failed(self, edge: Edge, error: Exception) -> None:
        """Close a connection in which a bug showed."""
        if isinstance(error, MemoryError):
            raise error  # not a bug, and the next connection would fail, too
        self.count["upcall_errors"] += 1
        if edge.quic.close_event is None:
            log.error("connection %d: closed because of an internal error", edge.handle, exc_info=error)
            edge.quic.close(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=0, reason_phrase="")

    def upcall_failed(self, what: str, error: Exception) -> None:
        """Count and log an upcall that raised."""
        if isinstance(error, MemoryError):
            raise error
        self.count["upcall_errors"] += 1
        log.error("%s failed because of an internal error", what, exc_info=error)
