"""The portable engine: `Datagrams` and `Requests` on aioquic.

A turn: each datagram of a batch gets one decision and one verdict (intake.py); connections that were touched are asked
what happened (care.py, edge.py); those with something to send are served by `send`, each in turn until the batch is
full. The table of connections is in table.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from velocity_edge.http.requests import Event, FileRange, Headers
from velocity_edge.quic import demux
from velocity_edge.quic.datagrams import Batch, EngineKeys, EngineSettings, Upcalls
from velocity_edge.quic.portable.batch import PortableBatch, gather
from velocity_edge.quic.portable.care import Care
from velocity_edge.quic.portable.edge import Edge
from velocity_edge.quic.portable.ids import Ids
from velocity_edge.quic.portable.intake import Intake
from velocity_edge.quic.portable.table import Farewell
from velocity_edge.wire.counters import COUNTERS

_MAX_CLOSE_REASON: Final = 256


class PortableEngine:
    """Implements `Requests` and `Datagrams`."""

    name = "portable"

    def __init__(self, settings: EngineSettings, upcalls: Upcalls) -> None:
        self._settings = settings
        self._count: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._care = Care(settings.limits.max_connections, self._count)
        self._table = self._care.table
        self._intake = Intake(settings, upcalls, self._care)
        self._live: frozenset[int] = frozenset()

    # --- settings ----------------------------------------------------------------------------------------------------

    def batch(self) -> PortableBatch:
        """Return a new batch."""
        return PortableBatch(self._count)

    def use_settings(self, settings: EngineSettings) -> None:
        """Use these limits from now on; connections keep what they were promised."""
        self._intake.use_settings(settings)
        self._settings = settings
        self._table.max_farewells = settings.limits.max_connections
        for edge in self._table.edges.values():
            edge.use_limits(settings.limits)

    def use_keys(self, keys: EngineKeys) -> None:
        """Issue ids and reset tokens under these keys from now on."""
        self._care.use_ids(Ids(keys, self._settings.node_id, self._settings.worker_id))
        self._look_around()

    def use_roster(self, live_worker_ids: frozenset[int]) -> None:
        """Use this set of workers whose packets are handed over."""
        self._live = live_worker_ids
        self._look_around()

    def _look_around(self) -> None:
        if self._care.ids is not None:
            node_id, worker_id = self._settings.node_id, self._settings.worker_id
            self._intake.here = demux.Whereabouts(self._care.ids.codec, node_id, worker_id, self._live)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, batch: Batch, now_ns: int) -> list[Event]:
        """Take in all trains of *batch* and clear it."""
        self._care.now_ns = now_ns
        touched: dict[Edge, None] = {}
        for train in batch:
            step = train.segment_size or 1
            forwarded = train.received_ns != 0
            # A datagram without a single byte is a datagram too.
            for start in range(0, len(train.data) or 1, step):
                self._count["datagrams_injected" if forwarded else "datagrams_received"] += 1
                verdict = self._intake.take(train.data[start : start + step], train, forwarded, now_ns, touched)
                self._count[verdict] += 1
        batch.clear()
        for edge in touched:
            self._care.after(edge, now_ns)
        return self._care.take_events()

    def strays(self) -> list[tuple[int, bytes]]:
        """Return and forget the datagrams of other workers."""
        strays, self._intake.strays = self._intake.strays, []
        return strays

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, batch: Batch, now_ns: int) -> bool:
        """Fill *batch*. False when nothing was there to send."""
        self._care.now_ns = now_ns
        unsent, dirty = self._intake.unsent, self._care.dirty
        while unsent and batch.append(unsent[0]):
            unsent.popleft()
        while dirty and not unsent:
            edge = next(iter(dirty))
            del dirty[edge]
            if edge.handle in self._table.edges:
                self._send_from(edge, batch, now_ns)
        return len(batch) > 0

    def _send_from(self, edge: Edge, batch: Batch, now_ns: int) -> None:
        care, unsent = self._care, self._intake.unsent
        closing = edge.quic.close_pending
        first = len(care.events)
        try:
            more = not closing and edge.pump(care.events)
            datagrams = edge.quic.datagrams_to_send(now_ns / 1e9)
        except Exception as error:
            care.connection_failed(edge, error)
            care.after(edge, now_ns)
            return
        care.forget_closed_streams(first)
        for train in gather(datagrams):
            if unsent or not batch.append(train):
                unsent.append(train)
        if closing:
            self._table.bury(edge, [datagram for datagram, _ in datagrams], now_ns)
            return
        if more and datagrams:
            # What was sent made room to read on; other connections come first.
            care.dirty[edge] = None
        edge.watch(now_ns)
        care.arm(edge)

    # --- time --------------------------------------------------------------------------------------------------------

    def next_timer_ns(self) -> int | None:
        """When `expire` must be called. Events that a call of the endpoint caused are due at once."""
        return self._care.now_ns if self._care.events else self._table.calendar.next_ns()

    def expire(self, now_ns: int) -> list[Event]:
        """Handle what is due."""
        self._care.now_ns = now_ns
        for item in self._table.calendar.due(now_ns):
            if isinstance(item, Farewell):
                self._table.forget(item)
            elif item.handshake_overdue(now_ns):
                item.timed_out = True
                item.fail("handshake timeout", self._care.events)
                self._table.remove(item)
            else:
                try:
                    item.expire(now_ns)
                except Exception as error:
                    self._care.connection_failed(item, error)
                self._care.after(item, now_ns)
        return self._care.take_events()

    # --- Requests ----------------------------------------------------------------------------------------------------

    def respond(
        self,
        stream: int,
        status: int,
        headers: Headers,
        body: bytes | FileRange | None = None,
        *,
        fin: bool = True,
    ) -> bool:
        """Answer a request."""
        found = self._table.streams.get(stream)
        if found is None:
            return False
        edge, it = found
        if not edge.respond(it, status, headers, body, fin):
            return False
        self._care.dirty[edge] = None
        return True

    def write(self, stream: int, data: bytes, *, fin: bool) -> int:
        """Add to the body."""
        found = self._table.streams.get(stream)
        if found is None:
            return -1
        edge, it = found
        self._care.dirty[edge] = None
        return edge.write(it, data, fin)

    def trailers(self, stream: int, fields: Headers) -> bool:
        """End a response with trailers."""
        found = self._table.streams.get(stream)
        if found is None:
            return False
        edge, it = found
        self._care.dirty[edge] = None
        return edge.trailers(it, fields)

    def credit(self, stream: int, n_bytes: int) -> None:
        """The handler has consumed that much."""
        found = self._table.streams.get(stream)
        if found is not None:
            edge, it = found
            edge.credit(it, n_bytes)
            self._care.dirty[edge] = None

    def reset(self, stream: int, error_code: int) -> None:
        """Abandon a stream both ways."""
        found = self._table.streams.pop(stream, None)
        if found is not None:
            edge, it = found
            edge.reset(it, error_code, self._care.events)
            self._care.dirty[edge] = None

    def close(self, connection: int, error_code: int, reason: str = "") -> None:
        """Close with an application error code."""
        edge = self._table.edges.get(connection)
        if edge is not None:
            edge.quic.close(error_code=error_code, reason_phrase=reason[:_MAX_CLOSE_REASON])
            self._care.after(edge, self._care.now_ns)

    def goaway(self, connection: int, *, final: bool) -> None:
        """RFC 9114 section 5.2."""
        edge = self._table.edges.get(connection)
        if edge is not None:
            edge.goaway(final)
            self._care.dirty[edge] = None

    def connections(self) -> list[tuple[int, int, int]]:
        """Return (connection, age in ns, open request streams) of each."""
        now_ns = self._care.now_ns
        return [(edge.handle, now_ns - edge.opened_ns, len(edge.streams)) for edge in self._table.edges.values()]

    def connections_by_config(self) -> dict[int, int]:
        """Return CID config id -> connections that hold an id of it."""
        return {config_id: count for config_id, count in self._table.by_config.items() if count}

    def connections_on(self, config_ids: Collection[int]) -> list[int]:
        """Return the open connections that hold an id of one of these configurations."""
        wanted = set(config_ids)
        return [edge.handle for edge in self._table.edges.values() if not wanted.isdisjoint(edge.held)]

    def rename(self, connection: int) -> bool:
        """Give the client ids of the present keys and have it retire the others."""
        edge = self._table.edges.get(connection)
        if edge is not None and self._care.ids is not None:
            edge.rename(self._care.ids.config_id)
            self._care.dirty[edge] = None
        return True

    def counters(self) -> dict[str, int]:
        """Return all counters."""
        return dict(self._count)
