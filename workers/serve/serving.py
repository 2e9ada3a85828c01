"""The parts a worker serves with: the descriptors of its slot, and engine, upcalls, exchanges and endpoint.

`Equipment` came with `Equip`; `Serving` exists from the first revision on. Which revision is used, when connections are
drained and what is reported is decided in workers/process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from velocity_edge.http.upstreams import CanForward, Forwarding
from velocity_edge.keys.ring import LOG_SALT, derive
from velocity_edge.keys.table import EpochTable
from velocity_edge.quic import single_use, udp
from velocity_edge.quic.datagrams import EngineSettings, Upcalls
from velocity_edge.quic.engine_keys import engine_keys
from velocity_edge.quic.open_engine import Engine, refuse_settings
from velocity_edge.quic.single_use import UsedTokens
from velocity_edge.tls.policy import profile_of
from velocity_edge.wire import messages as m
from velocity_edge.wire import rate_cells
from velocity_edge.wire.bundle import Bundle
from velocity_edge.wire.counters import LOSSES
from velocity_edge.wire.rate_cells import RateCells
from workers.handlers.static.open_files import OpenFiles
from workers.http import H3_NO_ERROR
from workers.measures import Measures
from workers.serve.endpoint import Endpoint
from workers.serve.exchanges import Exchanges
from workers.serve.revisions import Prepared
from workers.serve.upcalls import WorkerUpcalls

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Equipment:
    """The descriptors of a slot, as they came with `Equip`. Kept open as long as the process lives."""

    node_id: int
    bundle: Bundle
    link: socket.socket
    links: list[socket.socket]

    @classmethod
    def of(cls, order: m.Equip, descriptors: Sequence[int]) -> Self:
        """Prepare the descriptors of an order. Raises `MissingDescriptors`."""
        bundle = Bundle.unpack(descriptors, len(order.listeners), order.slots)
        for fd in bundle.sockets:
            missing = udp.prepare_descriptor(fd)
            if missing:
                log.warning(
                    "this kernel does not support %s: serving works, with less speed or fewer counters",
                    ", ".join(missing),
                )
        links = [socket.socket(fileno=fd) for fd in bundle.send]
        return cls(order.node_id, bundle, socket.socket(fileno=bundle.receive), links)

    def used_tokens(self, now_s: float) -> UsedTokens:
        """Return the used NEW_TOKEN tokens: of the node, or of this worker when its supervisor has none."""
        fd = self.bundle.used_tokens
        if fd is not None and single_use.is_ours(fd):
            return UsedTokens(os.dup(fd))
        log.warning(
            "the supervisor is of a version that does not share used tokens: each worker counts for itself until the "
            "supervisor is upgraded and this worker restarted"
        )
        return UsedTokens.private(now_s)

    def rate_cells(self) -> RateCells:
        """Return the counts of rate limits: of the node, or of this worker when its supervisor has none."""
        fd = self.bundle.rate_cells
        if fd is not None and rate_cells.is_ours(fd):
            return RateCells(os.dup(fd))
        log.warning(
            "the supervisor is of a version that does not share the counts of rate limits: each worker counts for "
            "itself until the supervisor is upgraded and this worker restarted"
        )
        return RateCells.private()

    def held(self, slot: int) -> list[int]:
        """Return the descriptors of this worker's slot in the order of `Held`."""
        return self.bundle.only_link(slot).pack()


@dataclass(slots=True)
class Serving:
    """The parts of a worker that serves."""

    engine: Engine
    upcalls: WorkerUpcalls
    exchanges: Exchanges
    endpoint: Endpoint
    settings: EngineSettings
    #: Upstream connections of the engine, if it has them.
    forwarding: Forwarding | None = None
    active: Prepared | None = None
    #: Connections that got their final GOAWAY, in any drain (drain_plan.py says why that is kept).
    told: set[int] = field(default_factory=set)
    #: Connections and requests that this worker cut, by the names of counters.LOSSES.
    losses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOSSES, 0))

    @classmethod
    def open(
        cls,
        loop: asyncio.AbstractEventLoop,
        start_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        write_log: Callable[[bytes], None],
        clock: Callable[[], float],
        open_engine: Callable[[EngineSettings, Upcalls], Engine],
        *,
        worker_id: int,
        equipment: Equipment,
        table: EpochTable,
        first: Prepared,
        progress: Callable[[], None] = lambda: None,
        open_files: OpenFiles | None = None,
        measures: Measures | None = None,
    ) -> Self:
        """Create all parts; nothing is received or sent before `use`. The first limits are those of *first*.

        Raises `VelocityError` when the engine does not support the configuration.
        """
        server = first.config.server
        limits = server.limits.limits()
        upcalls = WorkerUpcalls(table, equipment.node_id, worker_id, limits, equipment.used_tokens(clock()), progress)
        settings = EngineSettings(worker_id, equipment.node_id, limits, server.congestion_control)
        engine = open_engine(settings, upcalls)
        engine.use_keys(engine_keys(table))

        def flush_soon() -> None:
            endpoint.flush_soon()

        exchanges = Exchanges(
            engine,
            start_task,
            flush_soon,
            send_high_bytes=limits.send_high_bytes,
            write_log=write_log,
            clock=clock,
            progress=progress,
            open_files=open_files,
            measures=measures,
        )
        exchanges.connections.max_per_address = limits.max_connections_per_address
        endpoint = Endpoint(
            loop, engine, exchanges, sockets=equipment.bundle.sockets, link=equipment.link, links=equipment.links
        )
        forwarding = engine.forwarding() if isinstance(engine, CanForward) else None
        if forwarding is not None:
            exchanges.use_forwarding(forwarding)
            endpoint.use_forwarding(forwarding)
        return cls(engine, upcalls, exchanges, endpoint, settings, forwarding)

    def settings_of(self, prepared: Prepared) -> EngineSettings:
        """Return the engine settings of a revision. Raises `Unavailable` when this engine does not support them."""
        server = prepared.config.server
        settings = replace(self.settings, limits=server.limits.limits(), congestion_control=server.congestion_control)
        refuse_settings(self.engine.name, settings)
        return settings

    def use(self, prepared: Prepared, table: EpochTable) -> None:
        """Serve this revision from now on."""
        settings = self.settings_of(prepared)
        if settings != self.settings:
            # Writers must compare with the same bound as the engine, or one would wait for an event that never comes.
            self.engine.use_settings(settings)
            self.upcalls.admission.limits = settings.limits
            self.exchanges.responses.send_high_bytes = settings.limits.send_high_bytes
            self.exchanges.connections.max_per_address = settings.limits.max_connections_per_address
            self.settings = settings
        profiles = prepared.config.server.profiles
        self.exchanges.handshakes.profile_of = lambda group: profile_of(group, profiles.default, profiles.permit)
        self._use_policy(prepared, table)
        prepared.lease.begin()
        self.exchanges.use(prepared.requests)
        first = self.active is None
        self.active = prepared
        if first:
            self.endpoint.start()

    def accept(self, accepting: bool) -> None:
        """Accept new connections, or ignore them."""
        self.upcalls.admission.accepting = accepting

    def use_keys(self, table: EpochTable) -> None:
        """Seal and open with this table from now on."""
        self.engine.use_keys(engine_keys(table))
        self.upcalls.admission.use_keys(table)
        if self.active is not None:
            self._use_policy(self.active, table)

    def _use_policy(self, prepared: Prepared, table: EpochTable) -> None:
        [sealing] = [epoch for epoch in table.epochs if epoch.epoch == table.seal_with]
        self.exchanges.access_log.salt = derive(sealing.root, LOG_SALT)
        self.upcalls.policy = replace(prepared.policy(table), on_key_exchange=self.exchanges.handshakes.key_exchange)

    def close_connections(self, older_than_s: float | None, cause: str, reason: str = "") -> tuple[int, int]:
        """Close connections that are older than this (None: all) with H3_NO_ERROR; count them as cut by *cause*.

        Return how many there were, and how many requests ran on them.
        """
        cut = lost = 0
        for connection, age_ns, requests in self.engine.connections():
            if older_than_s is None or age_ns > older_than_s * 1e9:
                self.engine.close(connection, H3_NO_ERROR, reason)
                cut, lost = cut + 1, lost + requests
        self.count_losses(cause, cut, lost)
        self.endpoint.flush_soon()
        return cut, lost

    def count_losses(self, cause: str, cut: int, lost: int) -> None:
        """Add to the losses by *cause*: drain, stop or abort."""
        self.losses[f"connections_cut_{cause}"] += cut
        self.losses[f"requests_lost_{cause}"] += lost

    def counters(self) -> dict[str, int]:
        """Return all counters since the start of this process."""
        return {
            **self.engine.counters(),
            "handover_full": self.endpoint.handover_full,
            **self.losses,
            **self.exchanges.connections.closes,
            **self.upcalls.admission.counters,
            **self.exchanges.counts,
        }
