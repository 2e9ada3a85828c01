"""One worker: obeys orders, reports facts, and puts the parts together (docs/architecture.md, "Nobody waits").

    order       what happens here
    Equip       take the sockets; from now on no rights
    Keep        hold the other slot's sockets for a successor of the supervisor
    UseKeys     engine, admission and tickets use them -> KeysInUse
    Roster      whose strays are handed over
    Configure   build the revision beside the running one -> Prepared or Refused
    Activate    put it in place; the first one starts the serving -> Ready
    Drain       drain.py, every 100 ms -> Drained          Resume  stop doing that
    Abort       close old connections                       Stop    close all, and exit 0

The engine is made with the first revision (its limits are in there), and lives as long as the process: limits and the
engine itself change with a restart of the worker, everything else with a reload.

Who sends orders may die at any time: nothing here needs the supervisor for serving (supervision.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

from velocity_edge import keys, logs
from velocity_edge import messages as m
from velocity_edge.channel import Received
from velocity_edge.config.model import Config
from velocity_edge.errors import VelocityError
from velocity_edge.keys import EpochTable
from velocity_edge.quic import udp
from velocity_edge.quic.engine import Engine, EngineSettings, Upcalls
from velocity_edge.slab import Slab
from workers.drain import Act, Drain
from workers.endpoint import Endpoint
from workers.exchanges import Exchanges
from workers.handlers.beneath import Descriptor
from workers.http import H3_NO_ERROR
from workers.lines import LineWriter
from workers.revisions import Prepared, prepare
from workers.supervision import Supervision
from workers.upcalls import WorkerUpcalls
from workers.vitals import LoopLag, Memory, Tally, show_title

log = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 1.0
_DRAIN_STEP_S: Final = 0.1
#: For the last packets at the end. CONNECTION_CLOSE is sent once; a peer that misses it times out or gets a reset.
_LAST_FLUSH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is, by its command line."""

    worker_id: int
    slot: int
    cpu: int


@dataclass(slots=True)
class Equipment:
    """The descriptors of a slot, as they came with `Equip`. Kept open as long as the process lives."""

    node_id: int
    sockets: list[int]
    link: socket.socket
    links: list[socket.socket]
    slab_fd: int


@dataclass(slots=True)
class Serving:
    """What exists from the first revision on."""

    engine: Engine
    upcalls: WorkerUpcalls
    exchanges: Exchanges
    endpoint: Endpoint
    active: Prepared | None = None


@dataclass(slots=True)
class Worker:
    """The worker's state and its reactions. `run` ends when it was told to stop."""

    identity: Identity
    #: Which engine serves here and why; `open_engine` makes it.
    engine_name: str
    engine_reason: str
    open_engine: Callable[[EngineSettings, Upcalls], Engine]
    loop: asyncio.AbstractEventLoop
    start_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    drop_rights: Callable[[], None]
    memory: Memory
    wall_clock: Callable[[], float] = time.time
    supervision: Supervision = field(init=False)
    stopped: asyncio.Future[None] = field(init=False)
    equipment: Equipment | None = None
    kept: tuple[int, list[int]] | None = None
    table: EpochTable | None = None
    roster: dict[int, int] = field(default_factory=dict)
    serving: Serving | None = None
    #: Built, not yet active: revision -> it. Only the newest counts.
    prepared: dict[int, Prepared] = field(default_factory=dict)
    drain: Drain | None = None
    heartbeat_timer: asyncio.TimerHandle | None = None
    drain_timer: asyncio.TimerHandle | None = None
    drained_reported: bool = False
    stopping: bool = False
    tally: Tally | None = None
    lag: LoopLag | None = None
    lines: LineWriter | None = None
    logs: logs.Logs | None = None

    def __post_init__(self) -> None:
        self.stopped = self.loop.create_future()
        self.supervision = Supervision(self.loop, self.obey, self.hello, self.held)

    async def run(self, channel: socket.socket) -> None:
        """Serve until `Stop`."""
        self.supervision.adopt(channel, first=True)
        show_title(self.identity.worker_id, self.identity.cpu, "starting", 0)
        await self.stopped

    # --- orders ------------------------------------------------------------------------------------------------------

    def obey(self, received: Received[m.Order]) -> None:
        """Carry out one order. Bugs crash; what the operator can fix becomes `Refused`."""
        order = received.message
        match order:
            case m.Equip():
                self._equip(order, received.descriptors)
            case m.Keep():
                self._close_kept()
                self.kept = (order.slot, received.descriptors)
            case m.UseKeys():
                self._use_keys(order)
            case m.Roster():
                self.roster = dict(order.workers)
                if self.serving is not None:
                    self.serving.endpoint.use_roster(self.roster)
            case m.Configure():
                self._configure(order, [Descriptor(fd) for fd in received.descriptors])
            case m.Activate():
                self._activate(order.revision)
            case m.Drain():
                self._drain(order)
            case m.Resume():
                self._resume()
            case m.Abort():
                self._abort(order.age_s)
            case m.Stop():
                self.stop()
            case _ as forgotten:
                assert_never(forgotten)

    def _equip(self, order: m.Equip, descriptors: Sequence[int]) -> None:
        if self.equipment is not None:
            raise RuntimeError("equipped twice")
        sockets, link, links, slab_fd = _sorted_out(order, descriptors)
        self.equipment = Equipment(order.node_id, sockets, link, links, slab_fd)
        self.supervision.successor_path = order.successor_path
        self.drop_rights()
        # Threads only after that.
        self.logs = logs.set_up(f"worker {self.identity.worker_id}")
        self.lines = LineWriter(1)
        self.tally = Tally(Slab(slab_fd), self.identity.worker_id)
        self.lag = LoopLag(self.loop)
        self.heartbeat_timer = self.loop.call_later(_HEARTBEAT_S, self._heartbeat)

    def _use_keys(self, order: m.UseKeys) -> None:
        self.table = keys.table_of(order)
        serving = self.serving
        if serving is not None:
            serving.engine.use_keys(keys.engine_keys(self.table))
            serving.upcalls.admission.use_keys(self.table)
            if serving.active is not None:
                serving.upcalls.policy = serving.active.policy(self.table)
        self.supervision.report(m.KeysInUse([epoch.epoch for epoch in order.epochs], order.seal_with))

    def _configure(self, order: m.Configure, roots: list[Descriptor]) -> None:
        try:
            config = Config.from_json(order.config)
            named = dict(zip(order.roots, roots, strict=True))
            prepared = prepare(order.revision, config, order.chains, named, self.wall_clock)
            if self.table is not None:
                prepared.policy(self.table)
            if self.serving is None:
                self.serving = self._make_serving(config)
        except VelocityError as error:
            self.supervision.report(m.Refused(order.revision, str(error)))
            return
        except Exception as error:
            # A bug of ours, but not a reason to kill a worker that serves another revision well.
            log.exception("cannot prepare revision %d", order.revision)
            reason = f"cannot prepare it: {type(error).__name__}: {error} (a bug; the worker's log has more)"
            self.supervision.report(m.Refused(order.revision, reason))
            return
        self.prepared = {order.revision: prepared}
        self.supervision.report(m.Prepared(order.revision))

    def _make_serving(self, config: Config) -> Serving:
        equipment, table = self.equipment, self.table
        if equipment is None or table is None:
            raise RuntimeError("Configure came before Equip or UseKeys")
        limits = config.server.limits.limits()
        worker_id = self.identity.worker_id
        upcalls = WorkerUpcalls(table, equipment.node_id, worker_id, limits)
        settings = EngineSettings(worker_id, equipment.node_id, limits, config.server.congestion_control)
        engine = self.open_engine(settings, upcalls)
        engine.use_keys(keys.engine_keys(table))
        exchanges = Exchanges(
            engine, self.start_task, self._flush_soon, send_high_bytes=limits.send_high_bytes, clock=self.wall_clock
        )
        endpoint = Endpoint(
            self.loop, engine, exchanges, sockets=equipment.sockets, link=equipment.link, links=equipment.links
        )
        endpoint.use_roster(self.roster)
        return Serving(engine, upcalls, exchanges, endpoint)

    def _activate(self, revision: int) -> None:
        prepared = self.prepared.pop(revision, None)
        serving = self.serving
        if prepared is None or serving is None or self.table is None:
            raise RuntimeError(f"revision {revision} was never prepared")
        telemetry = prepared.config.telemetry or prepared.config.server.telemetry
        if self.logs is not None:
            self.logs.use(structured=telemetry.structured_logs, level=prepared.config.server.log_level)
        serving.upcalls.policy = prepared.policy(self.table)
        serving.exchanges.use(prepared.requests)
        first = serving.active is None
        serving.active = prepared
        if first:
            serving.endpoint.start()
        self.supervision.report(m.Ready(revision))
        self._show_title()

    def _drain(self, order: m.Drain) -> None:
        serving = self.serving
        now_s = self.loop.time()
        self.drain = Drain(now_s, now_s + order.deadline_s, order.spread_s, order.discourage)
        self.drained_reported = False
        if serving is None or serving.active is None:
            self.drained_reported = True
            self.supervision.report(m.Drained(0))
        else:
            self._drain_step()
        self._show_title()

    def _drain_step(self) -> None:
        if self.drain_timer is not None:
            self.drain_timer.cancel()
        drain, serving = self.drain, self.serving
        if drain is None or serving is None:
            return
        now_s = self.loop.time()
        engine, exchanges = serving.engine, serving.exchanges
        present = [
            (connection, requests, exchanges.is_established(connection))
            for connection, _, requests in engine.connections()
        ]
        for act, connection in drain.step(now_s, present):
            match act:
                case Act.WARN:
                    engine.goaway(connection, final=False)
                case Act.TELL:
                    engine.goaway(connection, final=True)
                case Act.CLOSE:
                    engine.close(connection, H3_NO_ERROR)
        serving.upcalls.admission.accepting = drain.accepts(now_s)
        serving.endpoint.flush_soon()
        if drain.over and not self.drained_reported:
            self.drained_reported = True
            log.info("drained, %d lost", drain.lost)
            self.supervision.report(m.Drained(drain.lost))
        self.drain_timer = self.loop.call_later(_DRAIN_STEP_S, self._drain_step)

    def _resume(self) -> None:
        self.drain = None
        if self.serving is not None:
            self.serving.upcalls.admission.accepting = True
        self._show_title()

    def _abort(self, age_s: float) -> None:
        if self.serving is None:
            return
        for connection, age_ns, _ in self.serving.engine.connections():
            if age_ns > age_s * 1e9:
                self.serving.engine.close(connection, H3_NO_ERROR, "aborted by the operator")
        self.serving.endpoint.flush_soon()

    def stop(self) -> None:
        """Close what is left and let `run` end."""
        if not self.stopping:
            self.stopping = True
            self.start_task(self._stop())

    async def _stop(self) -> None:
        serving = self.serving
        if serving is not None and serving.active is not None:
            for connection, _, _ in serving.engine.connections():
                serving.engine.close(connection, H3_NO_ERROR)
            if not await serving.endpoint.drained_output(_LAST_FLUSH_S):
                log.warning("some last packets did not leave: the socket had no room")
            serving.endpoint.stop()
        self._count()
        if self.lines is not None:
            self.lines.close(_LAST_FLUSH_S)
        if not self.stopped.done():
            self.stopped.set_result(None)

    def close(self) -> None:
        """End every timer and hang up: nothing of us is left in the loop."""
        for timer in (self.drain_timer, self.heartbeat_timer):
            if timer is not None:
                timer.cancel()
        if self.lag is not None:
            self.lag.stop()
        self.supervision.close()
        if self.logs is not None:
            self.logs.close()

    # --- facts -------------------------------------------------------------------------------------------------------

    def hello(self) -> m.Hello:
        """Return our first words to a supervisor."""
        active = self.serving.active if self.serving is not None else None
        return m.Hello(
            self.identity.worker_id,
            os.getpid(),
            self.engine_name,
            self.engine_reason,
            revision=active.number if active is not None else 0,
            draining=self.drain is not None,
        )

    def held(self) -> list[tuple[m.Held, Sequence[int]]]:
        """Return what a successor of the supervisor needs back: the sockets of our slot and of the one we keep."""
        held: list[tuple[m.Held, Sequence[int]]] = []
        slot, own = self.identity.slot, self.equipment
        if own is not None:
            descriptors = (*own.sockets, own.link.fileno(), own.links[slot].fileno(), own.slab_fd)
            held.append((m.Held(slot), descriptors))
        if self.kept is not None:
            held.append((m.Held(self.kept[0]), self.kept[1]))
        return held

    def _heartbeat(self) -> None:
        self.heartbeat_timer = self.loop.call_later(_HEARTBEAT_S, self._heartbeat)
        assert self.lag is not None
        lag_s = self.lag.take_s()
        counters = self._count(lag_s)
        connections, half_open = self._connections(counters)
        self.supervision.report(
            m.Heartbeat(connections, half_open, counters.get("requests", 0), lag_s * 1000, self.memory.rss_bytes())
        )
        self._show_title(connections)

    def _count(self, lag_s: float = 0.0) -> dict[str, int]:
        """Bring the slab up to date; return the counters."""
        serving = self.serving
        if serving is None or self.tally is None:
            return {}
        counters = {**serving.engine.counters(), "handover_full": serving.endpoint.handover_full}
        connections, half_open = self._connections(counters)
        self.tally.update(
            counters,
            {
                "connections": connections,
                "half_open": half_open,
                "streams": serving.exchanges.running,
                "rss_bytes": self.memory.rss_bytes(),
                "loop_lag_us": int(lag_s * 1e6),
            },
        )
        lines = serving.exchanges.take_log_lines()
        if lines and self.lines is not None:
            self.lines.write(lines)
        return counters

    def _connections(self, counters: dict[str, int]) -> tuple[int, int]:
        """Return (all connections, those whose handshake is not complete)."""
        if self.serving is None or not counters:
            return 0, 0
        present = counters["connections_opened"] - counters["connections_closed"]
        return present, max(0, present - self.serving.exchanges.established)

    def _show_title(self, connections: int | None = None) -> None:
        if connections is None:
            connections = self.serving.exchanges.established if self.serving is not None else 0
        if self.serving is None or self.serving.active is None:
            state = "starting"
        elif self.drain is not None:
            state = "drained" if self.drain.over else "draining"
        else:
            state = "serving"
        if self.supervision.orphaned:
            state += " without supervisor"
        show_title(self.identity.worker_id, self.identity.cpu, state, connections)

    def _flush_soon(self) -> None:
        assert self.serving is not None
        self.serving.endpoint.flush_soon()

    def _close_kept(self) -> None:
        if self.kept is not None:
            for fd in self.kept[1]:
                os.close(fd)
            self.kept = None


def _sorted_out(
    order: m.Equip, descriptors: Sequence[int]
) -> tuple[list[int], socket.socket, list[socket.socket], int]:
    """Return (sockets, link, links, slab) in the order that `Equip` promises."""
    listeners = len(order.listeners)
    if len(descriptors) != listeners + 1 + order.slots + 1:
        raise RuntimeError(
            f"Equip came with {len(descriptors)} descriptors for {listeners} listeners, {order.slots} slots"
        )
    sockets = list(descriptors[:listeners])
    for fd in sockets:
        missing = udp.prepare_descriptor(fd)
        if missing:
            log.warning("this kernel has no %s: serving works, slower or less well counted", ", ".join(missing))
    link = socket.socket(fileno=descriptors[listeners])
    links = [socket.socket(fileno=fd) for fd in descriptors[listeners + 1 : -1]]
    return sockets, link, links, descriptors[-1]
