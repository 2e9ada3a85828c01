"""Datagrams into an engine: each gets one decision (demux.py) and one verdict; new connections are admitted here.

Answers that belong to no connection wait here for `send`, datagrams of other workers for `strays`; both are bounded.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, Final

from velocity_edge.http.requests import Address
from velocity_edge.quic import demux
from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.datagrams import (
    MUST_RETRY_DSCP,
    Accept,
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
from velocity_edge.quic.portable.care import Care
from velocity_edge.quic.portable.configuration import server_configuration
from velocity_edge.quic.portable.connection import EdgeConnection
from velocity_edge.quic.portable.edge import Edge
from velocity_edge.quic.portable.ids import NewId
from velocity_edge.quic.portable.outbox import Held
from velocity_edge.quic.portable.table import Farewell
from velocity_edge.quic.reset import build_reset

#: (peer, local, listener): what a datagram came by and an answer goes out by.
Path = tuple[Address, Address, int]

#: Answers of no connection that wait for `send`; more would be a flood, and a lost answer is asked for again.
_MAX_ANSWERS: Final = 1024
#: Datagrams for other workers that wait for `strays`.
_MAX_STRAYS: Final = 4096


class Intake:
    """Where the datagrams of an engine go."""

    def __init__(self, settings: EngineSettings, upcalls: Upcalls, care: Care) -> None:
        self._care = care
        self._upcalls = upcalls
        self._held = Held()
        self._resets = PerSecond(settings.limits.max_resets_per_s)
        self._version_negotiations = PerSecond(settings.limits.max_version_negotiations_per_s)
        #: Which ids are whose; None before the first keys.
        self.here: demux.Whereabouts | None = None
        self.unsent: deque[Train] = deque()
        self.strays: list[tuple[int, bytes]] = []
        self.use_settings(settings)

    def use_settings(self, settings: EngineSettings) -> None:
        """Use these limits from now on, and this congestion control for new connections."""
        # First what may raise: settings that are refused change nothing.
        self._configuration = server_configuration(settings.limits, settings.congestion_control)
        self._settings = settings
        self._resets.limit = settings.limits.max_resets_per_s
        self._version_negotiations.limit = settings.limits.max_version_negotiations_per_s

    def take(self, datagram: bytes, train: Train, forwarded: bool, now_ns: int, touched: dict[Edge, None]) -> str:
        """Do what demux decides about one datagram of *train* and return the verdict."""
        here = self.here
        if here is None:
            return "verdict_dropped_not_accepting"
        match demux.decide(datagram, self._care.table.by_cid, here, forwarded=forwarded):
            case demux.Deliver(cid):
                owner = self._care.table.by_cid[cid]
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
                if len(self.strays) >= _MAX_STRAYS:
                    self._care.count["handover_full"] += 1
                else:
                    self.strays.append((worker_id, encode_handover(datagram, train, now_ns)))
                return "verdict_handed_over"
            case demux.NegotiateVersion() as asked:
                if not self._version_negotiations.take(now_ns):
                    return "verdict_dropped_version"
                self._answer(packets.version_negotiation(asked), train)
                return "verdict_version_negotiated"
            case demux.Reset(cid, length):
                assert self._care.ids is not None
                token = self._care.ids.name(cid).reset_token
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
            connections=len(self._care.table.edges),
            half_open=self._care.table.half_open,
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
            self._care.upcall_failed("admission of a new connection", error)
            return "verdict_dropped_internal"
        self._feed(edge, datagram, (train.peer, train.local, train.listener), now_ns)
        if edge.quic.nothing_decrypted:
            # Noise that looks like an Initial: nothing is kept of it.
            self._care.table.remove(edge)
            return "verdict_dropped_malformed"
        self._care.count["connections_opened"] += 1
        touched[edge] = None
        return "verdict_accepted"

    def _accept(self, initial: Initial, accept: Accept, now_ns: int) -> Edge:
        assert self._care.ids is not None
        retried = accept.original_dcid is not None
        first_id = self._care.ids.first(initial.dcid, retried=retried)
        quic = EdgeConnection(
            configuration=self._configuration,
            limits=self._settings.limits,
            original_dcid=accept.original_dcid or initial.dcid,
            retry_scid=initial.dcid if retried else None,
            first_id=first_id,
            issue_id=lambda: self._issue_for(edge),
            address_token=self._address_token,
            accepted=accept,
            make_handshake=self._upcalls.handshake,
        )
        table, limits, count = self._care.table, self._settings.limits, self._care.count
        edge = Edge(table.new_handle(), quic, limits, self._held, count, table.add_stream, table.retire, now_ns)
        edge.named = self._care.generation
        table.add(edge)
        if initial.dcid != first_id.cid:
            table.register(edge, initial.dcid, ours=False)
        table.register(edge, first_id.cid)
        return edge

    def _feed(self, edge: Edge, datagram: bytes, path: Path, now_ns: int) -> None:
        try:
            edge.quic.receive_datagram(datagram, path, now_ns / 1e9)
        except Exception as error:
            self._care.connection_failed(edge, error)

    def _issue_for(self, edge: Edge) -> NewId:
        assert self._care.ids is not None
        new = self._care.ids.issue()
        self._care.table.register(edge, new.cid)
        return new

    def _address_token(self, path: Any) -> bytes:
        return self._upcalls.address_token(path[0])

    def _answer(self, datagram: bytes, train: Train) -> None:
        self._queue(datagram, (train.peer, train.local, train.listener))

    def _queue(self, datagram: bytes, path: Path) -> None:
        if len(self.unsent) < _MAX_ANSWERS:
            self.unsent.append(Train(datagram, len(datagram), *path))
