"""The portable engine: the table of connections, and the turns of the seam (engine.Engine).

A turn: each datagram of a batch gets one decision (demux.py) and one verdict; connections that were touched are asked
what happened (edge.py); those with something to say are served by `send`, each in turn until the batch is full.

A connection that ended leaves a `Farewell` for three PTOs: it answers late packets with the CONNECTION_CLOSE, ever more
rarely (RFC 9000 section 10.2.1), and holds the ids so that nobody mistakes them for lost ones.

A connection that makes aioquic or our own code raise is closed with INTERNAL_ERROR and logged: a bug in one connection,
possibly provoked from outside, must not end the others.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Final

from aioquic.quic.packet import QuicErrorCode

from velocity_edge.cid import CidCodec
from velocity_edge.counters import COUNTERS
from velocity_edge.quic import demux
from velocity_edge.quic import engine as seam
from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.handover import encode as encode_handover
from velocity_edge.quic.portable import packets
from velocity_edge.quic.portable.batch import PortableBatch, gather
from velocity_edge.quic.portable.calendar import Calendar
from velocity_edge.quic.portable.connection import EdgeConnection, NewId, server_configuration
from velocity_edge.quic.portable.edge import Edge, Stream
from velocity_edge.quic.reset import build_reset, reset_token

log = logging.getLogger(__name__)

#: (peer, local, listener): what a datagram came by and an answer goes out by.
Path = tuple[seam.Address, seam.Address, int]

_GROUPS: Final = {
    0x11EC: "handshakes_x25519mlkem768",
    0x11EB: "handshakes_secp256r1mlkem768",
    0x11ED: "handshakes_secp384r1mlkem1024",
}
#: Answers of no connection that wait for `send`; more would be a flood, and a lost answer is asked for again.
_MAX_ANSWERS: Final = 1024
#: Datagrams for other workers that wait for `strays`.
_MAX_STRAYS: Final = 4096
_MAX_CLOSE_REASON: Final = 256
_MAX_RETIRED_IDS: Final = 8


@dataclass(slots=True, eq=False)
class Farewell:
    """What is left of a connection: its ids, and what it has to say when somebody still calls."""

    cids: set[bytes]
    path: Path
    #: CONNECTION_CLOSE, or empty when the peer closed (draining: RFC 9000 section 10.2.2).
    datagrams: list[bytes]
    received: int = 0


class PortableEngine:
    """Implements `engine.Engine`."""

    name = "portable"

    def __init__(self, settings: seam.EngineSettings, upcalls: seam.Upcalls) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._upcalls = upcalls
        self._configuration = server_configuration(settings.limits, settings.congestion_control)
        self._count: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._by_cid: dict[bytes, Edge | Farewell] = {}
        self._edges: dict[int, Edge] = {}
        self._farewells: OrderedDict[Farewell, int] = OrderedDict()
        self._streams: dict[int, Stream] = {}
        self._last_handle = 0
        self._half_open = 0
        self._calendar: Calendar[Edge | Farewell] = Calendar()
        self._dirty: dict[Edge, None] = {}
        self._unsent: deque[seam.Train] = deque()
        self._strays: list[tuple[int, bytes]] = []
        self._events: list[seam.Event] = []
        self._resets = PerSecond(settings.limits.max_resets_per_s)
        self._version_negotiations = PerSecond(settings.limits.max_version_negotiations_per_s)
        self._keys: seam.EngineKeys | None = None
        self._here: demux.Whereabouts | None = None
        self._live: frozenset[int] = frozenset()
        self._now_ns = 0

    # --- settings ----------------------------------------------------------------------------------------------------

    def batch(self) -> PortableBatch:
        """Return a new batch."""
        return PortableBatch(self._count)

    def use_keys(self, keys: seam.EngineKeys) -> None:
        """From now on."""
        self._keys = keys
        self._look_around()

    def use_roster(self, live_worker_ids: frozenset[int]) -> None:
        """Whose packets are handed over."""
        self._live = live_worker_ids
        self._look_around()

    def _look_around(self) -> None:
        if self._keys is not None:
            codec = CidCodec(self._keys.cid_configs)
            self._here = demux.Whereabouts(codec, self._settings.node_id, self._settings.worker_id, self._live)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, batch: seam.Batch, now_ns: int) -> list[seam.Event]:
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

    def _datagram(
        self, datagram: bytes, train: seam.Train, forwarded: bool, now_ns: int, touched: dict[Edge, None]
    ) -> str:
        """Do what demux decides and return the verdict."""
        here = self._here
        if here is None:
            return "verdict_dropped_not_accepting"
        match demux.decide(datagram, self._by_cid, here, forwarded=forwarded):
            case demux.Deliver(cid):
                owner = self._by_cid[cid]
                if isinstance(owner, Farewell):
                    self._wave(owner)
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
                assert self._keys is not None
                token = reset_token(self._keys.reset_keys, cid)
                if token is None:
                    return "verdict_dropped_unknown_cid"
                if not self._resets.take(now_ns):
                    return "verdict_dropped_reset_limit"
                self._answer(build_reset(token, length, os.urandom), train)
                return "verdict_reset"
            case demux.Drop(verdict):
                return verdict

    def _open(
        self, first: demux.Open, datagram: bytes, train: seam.Train, now_ns: int, touched: dict[Edge, None]
    ) -> str:
        initial = seam.Initial(
            version=first.version,
            dcid=first.dcid,
            scid=first.scid,
            token=first.token,
            peer=train.peer,
            must_retry=train.tos >> 2 == seam.MUST_RETRY_DSCP,
            connections=len(self._edges),
            half_open=self._half_open,
        )
        try:
            answer = self._upcalls.admit(initial, now_ns)
            match answer:
                case seam.Ignore(verdict):
                    return verdict
                case seam.Retry():
                    self._answer(packets.retry(initial, answer), train)
                    return "verdict_retried"
                case seam.Refuse():
                    self._answer(packets.refusal(initial, answer), train)
                    return "verdict_refused"
                case seam.Accept():
                    edge = self._accept(initial, answer, now_ns)
        except Exception as error:
            self._upcall_failed("admission of a new connection", error)
            return "verdict_dropped_internal"
        self._feed(edge, datagram, (train.peer, train.local, train.listener), now_ns)
        if edge.quic.nothing_decrypted:
            # Noise that looked like an Initial: nothing may stay of it.
            self._remove(edge)
            return "verdict_dropped_malformed"
        self._count["connections_opened"] += 1
        touched[edge] = None
        return "verdict_accepted"

    def _accept(self, initial: seam.Initial, accept: seam.Accept, now_ns: int) -> Edge:
        assert self._here is not None
        retried = accept.original_dcid is not None
        # After a Retry of this worker the client's id is already ours; after another worker's it names the other.
        if retried and self._here.codec.worker_of(initial.dcid) == self._settings.worker_id:
            first_id = self._name(initial.dcid)
        else:
            first_id = self._issue()
        quic = EdgeConnection(
            configuration=self._configuration,
            limits=self._limits,
            original_dcid=accept.original_dcid or initial.dcid,
            retry_scid=initial.dcid if retried else None,
            first_id=first_id,
            issue_id=lambda: self._issue_for(edge),
            address_token=self._address_token,
            address_validated=accept.address_validated,
            make_handshake=self._upcalls.handshake,
        )
        self._last_handle += 1
        edge = Edge(self._last_handle, quic, self._limits, self._count, self._new_stream, self._retire, now_ns)
        self._edges[edge.handle] = edge
        self._half_open += 1
        for cid in (initial.dcid, first_id.cid):
            self._register(edge, cid)
        return edge

    def _feed(self, edge: Edge, datagram: bytes, path: Path, now_ns: int) -> None:
        try:
            edge.quic.receive_datagram(datagram, path, now_ns / 1e9)
        except Exception as error:
            self._connection_failed(edge, error)

    def _after(self, edge: Edge, now_ns: int) -> None:
        """Whatever happened to *edge*: take its events, note that it may have to send, arm its timer, or bury it."""
        if edge.handle not in self._edges:
            return
        first = len(self._events)
        try:
            edge.collect(now_ns, self._events)
        except Exception as error:
            self._connection_failed(edge, error)
            edge.collect(now_ns, self._events)
        for event in self._events[first:]:
            if isinstance(event, seam.HandshakeCompleted):
                self._note_handshake(edge, event)
            elif isinstance(event, seam.StreamClosed):
                self._streams.pop(event.stream, None)
        quic = edge.quic
        if quic.terminated:
            self._remove(edge)
        elif quic.draining:
            self._bury(edge, [])
        else:
            self._dirty[edge] = None
            self._arm(edge)

    def _note_handshake(self, edge: Edge, event: seam.HandshakeCompleted) -> None:
        self._half_open -= 1
        self._count["handshakes_completed"] += 1
        self._count[_GROUPS.get(event.group, "handshakes_classical")] += 1
        self._count["handshakes_resumed"] += event.resumed
        self._count["hello_retry_requests"] += edge.quic.adapter.hello_retried

    def _take_events(self) -> list[seam.Event]:
        events, self._events = self._events, []
        return events

    def strays(self) -> list[tuple[int, bytes]]:
        """Return and forget what belongs to others."""
        strays, self._strays = self._strays, []
        return strays

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, batch: seam.Batch, now_ns: int) -> bool:
        """Fill *batch*. False when nothing was there to send."""
        self._now_ns = now_ns
        while self._unsent and batch.append(self._unsent[0]):
            self._unsent.popleft()
        while self._dirty and not self._unsent:
            edge = next(iter(self._dirty))
            del self._dirty[edge]
            if edge.handle in self._edges:
                self._send_from(edge, batch, now_ns)
        return len(batch) > 0

    def _send_from(self, edge: Edge, batch: seam.Batch, now_ns: int) -> None:
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
            if isinstance(event, seam.StreamClosed):
                self._streams.pop(event.stream, None)
        for train in gather(datagrams):
            if self._unsent or not batch.append(train):
                self._unsent.append(train)
        if closing:
            self._bury(edge, [datagram for datagram, _ in datagrams])
            return
        if more and datagrams:
            # What was sent made room to read on; others come first.
            self._dirty[edge] = None
        self._arm(edge)

    def _answer(self, datagram: bytes, train: seam.Train) -> None:
        if len(self._unsent) < _MAX_ANSWERS:
            self._unsent.append(seam.Train(datagram, len(datagram), train.peer, train.local, train.listener))

    # --- time --------------------------------------------------------------------------------------------------------

    def next_timer_ns(self) -> int | None:
        """When `expire` must be called. Events that a call of the endpoint caused are due at once."""
        return self._now_ns if self._events else self._calendar.next_ns()

    def expire(self, now_ns: int) -> list[seam.Event]:
        """Handle what is due."""
        self._now_ns = now_ns
        for item in self._calendar.due(now_ns):
            if isinstance(item, Farewell):
                self._forget(item)
            elif item.handshake_overdue(now_ns):
                item.timed_out = True
                item.fail("handshake timeout", self._events)
                self._remove(item)
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
            self._calendar.set(edge, deadline_ns)

    # --- the end of connections --------------------------------------------------------------------------------------

    def _remove(self, edge: Edge) -> None:
        """Forget *edge* and its ids."""
        self._detach(edge)
        for cid in edge.cids:
            self._by_cid.pop(cid, None)

    def _bury(self, edge: Edge, datagrams: list[bytes]) -> None:
        """Leave a farewell in the place of *edge* for three PTOs."""
        self._detach(edge)
        farewell = Farewell(edge.cids, edge.quic.active_path, datagrams)
        for cid in edge.cids:
            self._by_cid[cid] = farewell
        self._farewells[farewell] = 0
        self._calendar.set(farewell, self._now_ns + int(3e9 * edge.quic.probe_timeout_s))
        if len(self._farewells) > self._limits.max_connections:
            self._forget(next(iter(self._farewells)))

    def _detach(self, edge: Edge) -> None:
        if self._edges.pop(edge.handle, None) is None:
            return
        self._dirty.pop(edge, None)
        self._calendar.discard(edge)
        if edge.quic.nothing_decrypted:
            self._half_open -= 1
            return
        self._count["connections_closed"] += 1
        for stream in edge.streams.values():
            self._streams.pop(stream.handle, None)
        if not edge.completed:
            self._half_open -= 1
            self._count["handshakes_timed_out" if edge.timed_out else "handshakes_failed"] += 1

    def _forget(self, farewell: Farewell) -> None:
        self._farewells.pop(farewell, None)
        self._calendar.discard(farewell)
        for cid in farewell.cids:
            self._by_cid.pop(cid, None)

    def _wave(self, farewell: Farewell) -> None:
        farewell.received += 1
        # The 1st, 2nd, 4th, 8th ... late packet is answered.
        if farewell.datagrams and not farewell.received & (farewell.received - 1):
            peer, local, listener = farewell.path
            for datagram in farewell.datagrams:
                self._answer(datagram, seam.Train(b"", 0, peer, local, listener))

    def _connection_failed(self, edge: Edge, error: Exception) -> None:
        self._count["upcall_errors"] += 1
        if edge.quic.close_event is None:
            log.error("connection %d: closed because of a bug of ours", edge.handle, exc_info=error)
            edge.quic.close(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=0, reason_phrase="")

    def _upcall_failed(self, what: str, error: Exception) -> None:
        self._count["upcall_errors"] += 1
        log.error("%s failed because of a bug of ours", what, exc_info=error)

    # --- ids ---------------------------------------------------------------------------------------------------------

    def _name(self, cid: bytes) -> NewId:
        assert self._keys is not None
        return NewId(cid, reset_token(self._keys.reset_keys, cid))

    def _issue(self) -> NewId:
        assert self._here is not None
        return self._name(self._here.codec.issue(self._settings.node_id, self._settings.worker_id))

    def _issue_for(self, edge: Edge) -> NewId:
        new = self._issue()
        self._register(edge, new.cid)
        return new

    def _register(self, edge: Edge, cid: bytes) -> None:
        edge.cids.add(cid)
        self._by_cid[cid] = edge

    def _retire(self, edge: Edge, cid: bytes) -> None:
        """The peer gave an id back. The last few stay ours: a late packet must not look like a lost connection's."""
        edge.retired.append(cid)
        if len(edge.retired) > _MAX_RETIRED_IDS:
            old = edge.retired.popleft()
            edge.cids.discard(old)
            self._by_cid.pop(old, None)

    def _address_token(self, path: Any) -> bytes:
        return self._upcalls.address_token(path[0])

    # --- what the endpoint asks --------------------------------------------------------------------------------------

    def _new_stream(self, stream: Stream) -> int:
        self._last_handle += 1
        self._streams[self._last_handle] = stream
        return self._last_handle

    def respond(
        self,
        stream: int,
        status: int,
        headers: seam.Headers,
        body: bytes | seam.FileRange | None = None,
        *,
        fin: bool = True,
    ) -> bool:
        """Answer a request."""
        it = self._streams.get(stream)
        if it is None or not it.edge.respond(it, status, headers, body, fin):
            return False
        self._dirty[it.edge] = None
        return True

    def write(self, stream: int, data: bytes, *, fin: bool) -> int:
        """Add to the body."""
        it = self._streams.get(stream)
        if it is None:
            return -1
        self._dirty[it.edge] = None
        return it.edge.write(it, data, fin)

    def credit(self, stream: int, n_bytes: int) -> None:
        """The handler has consumed that much."""
        it = self._streams.get(stream)
        if it is not None:
            it.edge.credit(it, n_bytes)
            self._dirty[it.edge] = None

    def reset(self, stream: int, error_code: int) -> None:
        """Abandon a stream both ways."""
        it = self._streams.pop(stream, None)
        if it is not None:
            it.edge.reset(it, error_code, self._events)
            self._dirty[it.edge] = None

    def close(self, connection: int, error_code: int, reason: str = "") -> None:
        """Close with an application error code."""
        edge = self._edges.get(connection)
        if edge is not None:
            edge.quic.close(error_code=error_code, reason_phrase=reason[:_MAX_CLOSE_REASON])
            self._after(edge, self._now_ns)

    def goaway(self, connection: int, *, final: bool) -> None:
        """RFC 9114 section 5.2."""
        edge = self._edges.get(connection)
        if edge is not None:
            edge.goaway(final)
            self._dirty[edge] = None

    def connections(self) -> list[tuple[int, int, int]]:
        """Return (connection, age in ns, open request streams) of each."""
        return [(edge.handle, self._now_ns - edge.opened_ns, len(edge.streams)) for edge in self._edges.values()]

    def counters(self) -> dict[str, int]:
        """Return all counters."""
        return dict(self._count)
