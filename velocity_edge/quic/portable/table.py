"""Which connections there are, by id and by handle, and the closing periods of those that ended.

A connection that ended leaves a `Farewell` for three PTOs: it answers late packets with the CONNECTION_CLOSE, less and
less often (RFC 9000 section 10.2.1), and holds the ids so that they are not taken for lost ones. There are never more
farewells than connections are allowed; the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from velocity_edge.http.requests import HandshakeCompleted
from velocity_edge.quic.portable.calendar import Calendar
from velocity_edge.quic.portable.edge import Edge
from velocity_edge.quic.portable.outbox import Stream

#: Ids that the peer has retired stay ours for a while: a late packet must not look like one of a lost connection.
_MAX_RETIRED_IDS: Final = 8
_GROUPS: Final = {
    0x11EC: "handshakes_x25519mlkem768",
    0x11EB: "handshakes_secp256r1mlkem768",
    0x11ED: "handshakes_secp384r1mlkem1024",
}


@dataclass(slots=True, eq=False)
class Farewell:
    """What is left of a connection: its ids, and the answer to packets that still come for it."""

    cids: set[bytes]
    #: As in Edge.
    held: dict[int, int]
    path: Any
    #: CONNECTION_CLOSE, or empty when the peer closed (draining: RFC 9000 section 10.2.2).
    datagrams: list[bytes]
    received: int = 0

    def answer(self) -> list[bytes]:
        """Count a late packet; return the answer: something to the 1st, 2nd, 4th, 8th ..."""
        self.received += 1
        return [] if self.received & (self.received - 1) else self.datagrams


class Table:
    """All connections of an engine."""

    def __init__(self, count: dict[str, int], max_farewells: int) -> None:
        self.by_cid: dict[bytes, Edge | Farewell] = {}
        self.edges: dict[int, Edge] = {}
        self.streams: dict[int, tuple[Edge, Stream]] = {}
        self.half_open = 0
        #: CID config id -> connections that hold an id of it.
        self.by_config: dict[int, int] = {}
        self.calendar: Calendar[Edge | Farewell] = Calendar()
        self._count = count
        self.max_farewells = max_farewells
        self._farewells: OrderedDict[Farewell, None] = OrderedDict()
        self._last_handle = 0

    def new_handle(self) -> int:
        """Return a number that no connection and no stream had before."""
        self._last_handle += 1
        return self._last_handle

    def add_stream(self, edge: Edge, stream: Stream) -> int:
        """Add a request; return its handle."""
        handle = self.new_handle()
        self.streams[handle] = edge, stream
        return handle

    def add(self, edge: Edge) -> None:
        """Add a connection whose handshake begins."""
        self.edges[edge.handle] = edge
        self.half_open += 1

    def note_handshake(self, edge: Edge, event: HandshakeCompleted) -> None:
        """Count a handshake that is complete."""
        self.half_open -= 1
        self._count["handshakes_completed"] += 1
        self._count[_GROUPS.get(event.group, "handshakes_classical")] += 1
        self._count["handshakes_resumed"] += event.resumed
        self._count["hello_retry_requests"] += edge.quic.adapter.hello_retried

    def register(self, edge: Edge, cid: bytes, *, ours: bool = True) -> None:
        """Packets with this id are for *edge*. *ours*: we issued it; otherwise the client chose it."""
        edge.cids.add(cid)
        self.by_cid[cid] = edge
        if ours:
            config_id = cid[0] >> 5
            edge.held[config_id] = edge.held.get(config_id, 0) + 1
            if edge.held[config_id] == 1:
                self.by_config[config_id] = self.by_config.get(config_id, 0) + 1

    def _let_go(self, held: dict[int, int], config_id: int, n_ids: int) -> None:
        held[config_id] -= n_ids
        if held[config_id] == 0:
            del held[config_id]
            self.by_config[config_id] -= 1

    def retire(self, edge: Edge, cid: bytes) -> None:
        """The peer retired an id."""
        self._let_go(edge.held, cid[0] >> 5, 1)
        edge.retired.append(cid)
        if len(edge.retired) > _MAX_RETIRED_IDS:
            old = edge.retired.popleft()
            edge.cids.discard(old)
            self.by_cid.pop(old, None)

    def remove(self, edge: Edge) -> None:
        """Forget *edge* and its ids."""
        self._detach(edge)
        self._release(edge.cids, edge.held)

    def _release(self, cids: set[bytes], held: dict[int, int]) -> None:
        for cid in cids:
            self.by_cid.pop(cid, None)
        for config_id, n_ids in list(held.items()):
            self._let_go(held, config_id, n_ids)

    def bury(self, edge: Edge, datagrams: list[bytes], now_ns: int) -> None:
        """Replace *edge* by a farewell for three PTOs."""
        self._detach(edge)
        farewell = Farewell(edge.cids, edge.held, edge.quic.active_path, datagrams)
        for cid in edge.cids:
            self.by_cid[cid] = farewell
        self._farewells[farewell] = None
        self.calendar.set(farewell, now_ns + int(3e9 * edge.quic.probe_timeout_s))
        if len(self._farewells) > self.max_farewells:
            self.forget(next(iter(self._farewells)))

    def forget(self, farewell: Farewell) -> None:
        """Remove it: its time is over."""
        self._farewells.pop(farewell, None)
        self.calendar.discard(farewell)
        self._release(farewell.cids, farewell.held)

    def _detach(self, edge: Edge) -> None:
        if self.edges.pop(edge.handle, None) is None:
            return
        self.calendar.discard(edge)
        edge.release()
        if edge.quic.nothing_decrypted:
            # It was never counted as a connection.
            self.half_open -= 1
            return
        self._count["connections_closed"] += 1
        for stream in edge.streams:
            self.streams.pop(stream.handle, None)
        if not edge.completed:
            self.half_open -= 1
            self._count["handshakes_timed_out" if edge.timed_out else "handshakes_failed"] += 1
