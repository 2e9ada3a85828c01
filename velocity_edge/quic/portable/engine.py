"""The portable engine: `Requests` and `Datagrams` on aioquic.

A turn: each datagram of a batch gets one decision (demux.py) and one verdict; connections that were touched are asked
what happened (edge.py); those with something to say are served by `send`, each in turn until the batch is full.

Who is here, and who has gone, is in table.py.

A connection that makes aioquic or our own code raise is closed with INTERNAL_ERROR and logged: a bug in one connection,
possibly provoked from outside, must not end the others.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Collection
from typing import Any, Final

from aioquic.quic.packet import QuicErrorCode

from velocity_edge.http.requests import Address, Event, FileRange, HandshakeCompleted, Headers, StreamClosed
from velocity_edge.quic import demux
from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.datagrams import (
    MUST_RETRY_DSCP,
    Accept,
    Batch,
    EngineKeys,
    EngineSettings,
    Ignore,
    Initial,
    Refuse,
    Retry,
    Train,
    Upcalls,
)
from velocity_edge.quic.handover import encode as encode_handover
from velocity_edge.quic.portable import packets
from velocity_edge.quic.portable.batch import PortableBatch, gather
from velocity_edge.quic.portable.connection import EdgeConnection, server_configuration
from velocity_edge.quic.portable.edge import Edge
from velocity_edge.quic.portable.ids import Ids, NewId
from velocity_edge.quic.portable.outbox import Held
from velocity_edge.quic.portable.table import Farewell, Table
from velocity_edge.quic.reset import build_reset
from velocity_edge.wire.counters import COUNTERS

log = logging.getLogger(__name__)

#: (peer, local, listener): what a datagram came by and an answer goes out by.
Path = tuple[Address, Address, int]

#: Answers of no connection that wait for `send`; more would be a flood, and a lost answer is asked for again.
_MAX_ANSWERS: Final = 1024
#: Datagrams for other workers that wait for `strays`.
_MAX_STRAYS: Final = 4096
_MAX_CLOSE_REASON: Final = 256


class PortableEngine:
    """Implements `Requests` and `Datagrams`."""

    name = "portable"

    def __init__(self, settings: EngineSettings, upcalls: Upcalls) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._upcalls = upcalls
        self._configuration = server_configuration(settings.limits, settings.congestion_control)
        self._count: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._table = Table(self._count, settings.limits.max_connections)
        self._held = Held()
        self._dirty: dict[Edge, None] = {}
        self._unsent: deque[Train] = deque()
        self._strays: list[tuple[int, bytes]] = []
        self._events: list[Event] = []
        self._resets = PerSecond(settings.limits.max_resets_per_s)
        self._version_negotiations = PerSecond(settings.limits.max_version_negotiations_per_s)
        self._ids: Ids | None = None
        #: Counts the changes of what issues connection IDs.
        self._generation = 0
        self._here: demux.Whereabouts | None = None
        self._live: frozenset[int] = frozenset()
        self._now_ns = 0

    # --- settings ----------------------------------------------------------------------------------------------------

    def batch(self) -> PortableBatch:
        """Return a new batch."""
        return PortableBatch(self._count)

    def use_settings(self, settings: EngineSettings) -> None:
        """Use these limits from now on; connections keep what they were promised."""
        limits = settings.limits
        self._configuration = server_configuration(limits, settings.congestion_control)
        self._settings, self._limits = settings, limits
        self._table.max_farewells = limits.max_connections
        self._resets.limit = limits.max_resets_per_s
        self._version_negotiations.limit = limits.max_version_negotiations_per_s
        for edge in self._table.edges.values():
            edge.use_limits(limits)

    def use_keys(self, keys: EngineKeys) -> None:
        """From now on."""
        before, self._ids = self._ids, Ids(keys, self._settings.node_id, self._settings.worker_id)
        if before is not None and before.config_id != self._ids.config_id:
            self._generation += 1
        self._look_around()

    def use_roster(self, live_worker_ids: frozenset[int]) -> None:
        """Whose packets are handed over."""
        self._live = live_worker_ids
        self._look_around()

    def _look_around(self) -> None:
        if self._ids is not None:
            node_id, worker_id = self._settings.node_id, self._settings.worker_id
            self._here = demux.Whereabouts(self._ids.codec, node_id, worker_id, self._live)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, batch: Batch, now_ns: int) -> list[Event]:
        """Take in all trains of *batch* and clear it."""
        self._now_ns = now_ns
        touched: dict[Edge, None] = {}
        for train in batch:
            step = train.segment_size or 1
            forwarded = train.received_ns != 0
            # A datagram without a single byte is a datagram too.
            for start in range(0, len(train.data) or 1, step):
                self._count["datagrams_injected" if forwarded else "datagrams_received"] += 1
                verdict = self._datagram(train.data[start : start + step], train, forwarded, now_ns, touched)
                self._count[verdict] += 1
        batch.clear()
        for edge in touched:
            self._after(edge, now_ns)
        return self._take_events()

    def _datagram(self, datagram: bytes, train: Train, forwarded: bool, now_ns: int, touched: dict[Edge, None]) -> str:
        """Do what demux decides and return the verdict."""
        here = self._here
        if here is None:
            return "verdict_dropped_not_accepting"
        match demux.decide(datagram, self._table.by_cid, here, forwarded=forwarded):
            case demux.Deliver(cid):
                owner = self._table.by_cid[cid]
                if isinstance(owner, Farewell):
                    for late_answer in owner.answer():
                        self._queue(late_answer, owner.path)
                else:
                    self._feed(owner, datagram, (train.peer, train.local, train.listener), now_ns)
                    touched[owner] = None
                return "verdict_delivered"
            case demux.Open() as first:
                return self._open(first, datagram, train, now_ns, touched)
            case demux.HandOver(worker_id):
                if len(self._strays) >= _MAX_STRAYS:
                    self._count["handover_full"] += 1
                else:
                    self._strays.append((worker_id, encode_handover(datagram, train, now_ns)))
                return "verdict_handed_over"
            case demux.NegotiateVersion() as asked:
                if not self._version_negotiations.take(now_ns):
                    return "verdict_dropped_version"
                self._answer(packets.version_negotiation(asked), train)
                return "verdict_version_negotiated"
            case demux.Reset(cid, length):
                assert self._ids is not None
                token = self._ids.name(cid).reset_token
                if token is None:
                    return "verdict_dropped_unknown_cid"
                if not self._resets.take(now_ns):
                    return "verdict_dropped_reset_limit"
                self._answer(build_reset(token, length, os.urandom), train)
                return "verdict_reset"
            case demux.Drop(verdict):
                return verdict

    def _open(self, first: demux.Open, datagram: bytes, train: Train, now_ns: int, touched: dict[Edge, None]) -> str:
        initial = Initial(
            version=first.version,
            dcid=first.dcid,
            scid=first.scid,
            token=first.token,
            peer=train.peer,
            must_retry=train.tos >> 2 == MUST_RETRY_DSCP,
            connections=len(self._table.edges),
            half_open=self._table.half_open,
        )
        try:
            answer = self._upcalls.admit(initial, now_ns)
            match answer:
                case Ignore(verdict):
                    return verdict
                case Retry():
                    self._answer(packets.retry(initial, answer), train)
                    return "verdict_retried"
                case Refuse():
                    self._answer(packets.refusal(initial, answer), train)
                    return "verdict_refused"
                case Accept():
                    edge = self._accept(initial, answer, now_ns)
        except Exception as error:
            self._upcall_failed("admission of a new connection", error)
            return "verdict_dropped_internal"
        self._feed(edge, datagram, (train.peer, train.local, train.listener), now_ns)
        if edge.quic.nothing_decrypted:
            # Noise that looked like an Initial: nothing may stay of it.
            self._table.remove(edge)
            return "verdict_dropped_malformed"
        self._count["connections_opened"] += 1
        touched[edge] = None
        return "verdict_accepted"

    def _accept(self, initial: Initial, accept: Accept, now_ns: int) -> Edge:
        assert self._ids is not None
        retried = accept.original_dcid is not None
        first_id = self._ids.first(initial.dcid, retried=retried)
        quic = EdgeConnection(
            configuration=self._configuration,
            limits=self._limits,
            original_dcid=accept.original_dcid or initial.dcid,
            retry_scid=initial.dcid if retried else None,
            first_id=first_id,
            issue_id=lambda: self._issue_for(edge),
            address_token=self._address_token,
            accepted=accept,
            make_handshake=self._upcalls.handshake,
        )
        table = self._table
        edge = Edge(
            table.new_handle(), quic, self._limits, self._held, self._count, table.add_stream, table.retire, now_ns
        )
        edge.named = self._generation
        table.add(edge)
        if initial.dcid != first_id.cid:
            table.register(edge, initial.dcid, ours=False)
        table.register(edge, first_id.cid)
        return edge

    def _feed(self, edge: Edge, datagram: bytes, path: Path, now_ns: int) -> None:
        try:
            edge.quic.receive_datagram(datagram, path, now_ns / 1e9)
        except Exception as error:
            self._connection_failed(edge, error)

    def _after(self, edge: Edge, now_ns: int) -> None:
        """Whatever happened to *edge*: take its events, note that it may have to send, arm its timer, or bury it."""
        if edge.handle not in self._table.edges:
            return
        if edge.named != self._generation and self._ids is not None and edge.rename(self._ids.config_id):
            # The keys have changed: its client gets new ids now that it is awake. Nobody is woken for it.
            edge.named = self._generation
        first = len(self._events)
        try:
            edge.collect(now_ns, self._events)
        except Exception as error:
            self._connection_failed(edge, error)
            edge.collect(now_ns, self._events)
        for event in self._events[first:]:
            if isinstance(event, HandshakeCompleted):
                self._table.note_handshake(edge, event)
            elif isinstance(event, StreamClosed):
                self._table.streams.pop(event.stream, None)
        quic = edge.quic
        if quic.terminated:
            self._table.remove(edge)
        elif quic.draining:
            self._table.bury(edge, [], self._now_ns)
        else:
            self._dirty[edge] = None
            self._arm(edge)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def strays(self) -> list[tuple[int, bytes]]:
        """Return and forget what belongs to others."""
        strays, self._strays = self._strays, []
        return strays

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, batch: Batch, now_ns: int) -> bool:
        """Fill *batch*. False when nothing was there to send."""
        self._now_ns = now_ns
        while self._unsent and batch.append(self._unsent[0]):
            self._unsent.popleft()
        while self._dirty and not self._unsent:
            edge = next(iter(self._dirty))
            del self._dirty[edge]
            if edge.handle in self._table.edges:
                self._send_from(edge, batch, now_ns)
        return len(batch) > 0

    def _send_from(self, edge: Edge, batch: Batch, now_ns: int) -> None:
        closing = edge.quic.close_pending
        first = len(self._events)
        try:
            more = not closing and edge.pump(self._events)
            datagrams = edge.quic.datagrams_to_send(now_ns / 1e9)
        except Exception as error:
            self._connection_failed(edge, error)
            self._after(edge, now_ns)
            return
        for event in self._events[first:]:
            if isinstance(event, StreamClosed):
                self._table.streams.pop(event.stream, None)
        for train in gather(datagrams):
            if self._unsent or not batch.append(train):
                self._unsent.append(train)
        if closing:
            self._table.bury(edge, [datagram for datagram, _ in datagrams], now_ns)
            return
        if more and datagrams:
            # What was sent made room to read on; others come first.
            self._dirty[edge] = None
        edge.watch(now_ns)
        self._arm(edge)

    def _answer(self, datagram: bytes, train: Train) -> None:
        self._queue(datagram, (train.peer, train.local, train.listener))

    def _queue(self, datagram: bytes, path: Path) -> None:
        if len(self._unsent) < _MAX_ANSWERS:
            self._unsent.append(Train(datagram, len(datagram), *path))

    # --- time --------------------------------------------------------------------------------------------------------

    def next_timer_ns(self) -> int | None:
        """When `expire` must be called. Events that a call of the endpoint caused are due at once."""
        return self._now_ns if self._events else self._table.calendar.next_ns()

    def expire(self, now_ns: int) -> list[Event]:
        """Handle what is due."""
        self._now_ns = now_ns
        for item in self._table.calendar.due(now_ns):
            if isinstance(item, Farewell):
                self._table.forget(item)
            elif item.handshake_overdue(now_ns):
                item.timed_out = True
                item.fail("handshake timeout", self._events)
                self._table.remove(item)
            else:
                try:
                    item.expire(now_ns)
                except Exception as error:
                    self._connection_failed(item, error)
                self._after(item, now_ns)
        return self._take_events()

    def _arm(self, edge: Edge) -> None:
        deadline_ns = edge.deadline_ns()
        if deadline_ns is not None:
            self._table.calendar.set(edge, deadline_ns)

    def _connection_failed(self, edge: Edge, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise error  # no bug of ours, and the next connection would not fare better
        self._count["upcall_errors"] += 1
        if edge.quic.close_event is None:
            log.error("connection %d: closed because of a bug of ours", edge.handle, exc_info=error)
            edge.quic.close(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=0, reason_phrase="")

    def _upcall_failed(self, what: str, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise error
        self._count["upcall_errors"] += 1
        log.error("%s failed because of a bug of ours", what, exc_info=error)

    def _issue_for(self, edge: Edge) -> NewId:
        assert self._ids is not None
        new = self._ids.issue()
        self._table.register(edge, new.cid)
        return new

    def _address_token(self, path: Any) -> bytes:
        return self._upcalls.address_token(path[0])

    # --- what the endpoint asks --------------------------------------------------------------------------------------

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
        it = self._table.streams.get(stream)
        if it is None or not it.edge.respond(it, status, headers, body, fin):
            return False
        self._dirty[it.edge] = None
        return True

    def write(self, stream: int, data: bytes, *, fin: bool) -> int:
        """Add to the body."""
        it = self._table.streams.get(stream)
        if it is None:
            return -1
        self._dirty[it.edge] = None
        return it.edge.write(it, data, fin)

    def credit(self, stream: int, n_bytes: int) -> None:
        """The handler has consumed that much."""
        it = self._table.streams.get(stream)
        if it is not None:
            it.edge.credit(it, n_bytes)
            self._dirty[it.edge] = None

    def reset(self, stream: int, error_code: int) -> None:
        """Abandon a stream both ways."""
        it = self._table.streams.pop(stream, None)
        if it is not None:
            it.edge.reset(it, error_code, self._events)
            self._dirty[it.edge] = None

    def close(self, connection: int, error_code: int, reason: str = "") -> None:
        """Close with an application error code."""
        edge = self._table.edges.get(connection)
        if edge is not None:
            edge.quic.close(error_code=error_code, reason_phrase=reason[:_MAX_CLOSE_REASON])
            self._after(edge, self._now_ns)

    def goaway(self, connection: int, *, final: bool) -> None:
        """RFC 9114 section 5.2."""
        edge = self._table.edges.get(connection)
        if edge is not None:
            edge.goaway(final)
            self._dirty[edge] = None

    def connections(self) -> list[tuple[int, int, int]]:
        """Return (connection, age in ns, open request streams) of each."""
        return [(edge.handle, self._now_ns - edge.opened_ns, len(edge.streams)) for edge in self._table.edges.values()]

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
        if edge is not None and self._ids is not None:
            edge.rename(self._ids.config_id)
            self._dirty[edge] = None
        return True

    def counters(self) -> dict[str, int]:
        """Return all counters."""
        return dict(self._count)
