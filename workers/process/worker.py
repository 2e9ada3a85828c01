"""One worker: obeys orders, reports facts, and puts the parts together (docs/architecture.md, "Nobody waits").

    order       what happens here
    Equip       take the sockets; from now on no rights
    Keep        hold the other slot's sockets for a successor of the supervisor
    UseKeys     engine, admission and tickets use them -> KeysInUse
    Roster      whose strays are handed over
    Configure   build the revision beside the running one -> Prepared or Refused
    Activate    put it in place; the first one starts the serving -> Ready
    Drain       leaving.py -> Drained                       Resume  stop doing that
    Abort       close old connections -> Aborted            Stop    close all, and exit 0
    Move        moving.py: off the connection IDs of old keys

The engine is made with the first revision and lives as long as the process: another engine or user needs another worker
(the supervisor replaces them), everything else changes with a reload.

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
from pathlib import Path
from typing import Any, Final, assert_never

from velocity_edge import __version__
from velocity_edge.config.model import Config
from velocity_edge.errors import VelocityError
from velocity_edge.keys.table import CID_CONFIGS, EpochTable, table_of
from velocity_edge.quic.datagrams import EngineSettings, Upcalls
from velocity_edge.quic.open_engine import Engine
from velocity_edge.text import logs
from velocity_edge.text.lines import LineWriter
from velocity_edge.wire import messages as m
from velocity_edge.wire.channel import Received
from velocity_edge.wire.cid import MAX_WORKER_ID
from velocity_edge.wire.slab import Slab
from velocity_edge.wire.titles import without_supervisor
from workers.drain.drain_plan import Drain
from workers.drain.drain_run import Leaving
from workers.drain.move_run import Moving
from workers.handlers.build import HandlerContext
from workers.handlers.static.beneath import Descriptor
from workers.process.supervision import Supervision
from workers.process.vitals import LoopLag, Memory, Tally, show_title
from workers.serve.access_log import access_lines_lost
from workers.serve.revisions import Prepared, prepare
from workers.serve.serving import Equipment, Serving

log = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 1.0
#: More newcomers than a worker can miss before it is killed for its silence.
_UNBORN_IDS: Final = 256
#: For the last packets at the end. CONNECTION_CLOSE is sent once; a peer that misses it times out or gets a reset.
_LAST_FLUSH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is, by its command line."""

    worker_id: int
    slot: int
    cpu: int


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
    handlers: HandlerContext = field(init=False)
    equipment: Equipment | None = None
    kept: dict[int, list[int]] = field(default_factory=dict)
    table: EpochTable | None = None
    roster: m.Roster = field(default_factory=lambda: m.Roster({}))
    serving: Serving | None = None
    #: Built, not yet active: revision -> it. Only the newest counts.
    prepared: dict[int, Prepared] = field(default_factory=dict)
    leaving: Leaving | None = None
    moving: Moving | None = None
    heartbeat_timer: asyncio.TimerHandle | None = None
    stopping: bool = False
    tally: Tally | None = None
    lag: LoopLag | None = None
    lines: LineWriter | None = None
    logs: logs.Logs | None = None

    def __post_init__(self) -> None:
        self.stopped = self.loop.create_future()
        self.handlers = HandlerContext(self.wall_clock)
        self.supervision = Supervision(self.loop, self.obey, self.hello, self.held, self._has_drained, self.wall_clock)

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
                self._keep(order.slot, received.descriptors)
            case m.UseKeys():
                self._use_keys(order)
            case m.Roster():
                self.roster = order
                if self.serving is not None:
                    self.serving.endpoint.use_roster(order.workers, unborn(order))
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
            case m.Move():
                self._move(order)
            case m.Stop():
                self.stop()
            case _ as forgotten:
                assert_never(forgotten)

    def _equip(self, order: m.Equip, descriptors: Sequence[int]) -> None:
        if self.equipment is not None:
            raise RuntimeError("equipped twice")
        self.equipment = Equipment.of(order, descriptors)
        self.supervision.successor_path = order.successor_path
        self.drop_rights()
        # Threads only after that.
        self.logs = logs.set_up(f"worker {self.identity.worker_id}")
        self.lines = LineWriter(1, access_lines_lost)
        self.tally = Tally(Slab(self.equipment.bundle.slab), self.identity.worker_id)
        self.lag = LoopLag(self.loop, self.tally.progress)
        self.heartbeat_timer = self.loop.call_later(_HEARTBEAT_S, self._heartbeat)

    def _use_keys(self, order: m.UseKeys) -> None:
        self.table = table_of(order)
        if self.serving is not None:
            self.serving.use_keys(self.table)
        self.supervision.report(m.KeysInUse([epoch.epoch for epoch in order.epochs], order.seal_with, order.closed))

    def _configure(self, order: m.Configure, roots: list[Descriptor]) -> None:
        prepared: Prepared | None = None
        try:
            config = Config.from_json(order.config)
            named = dict(zip(order.roots, roots, strict=True))
            prepared = prepare(order.revision, config, order.chains, named, self.handlers)
            if self.table is not None:
                prepared.policy(self.table)
            if self.serving is None:
                self.serving = self._open_serving(prepared)
            self.serving.settings_of(prepared)
        except VelocityError as error:
            self._refuse(order.revision, str(error), prepared)
            return
        except Exception as error:
            # A bug, but not a reason to end a worker that serves another revision.
            log.exception("cannot prepare revision %d", order.revision)
            reason = f"cannot prepare it: {type(error).__name__}: {error} (a bug; the worker's log has more)"
            self._refuse(order.revision, reason, prepared)
            return
        self._drop_prepared()
        self.prepared[order.revision] = prepared
        self.supervision.report(m.Prepared(order.revision))

    def _refuse(self, revision: int, reason: str, prepared: Prepared | None) -> None:
        if prepared is not None:
            prepared.close()
        self.supervision.report(m.Refused(revision, reason))

    def _drop_prepared(self) -> None:
        """Release the revisions that were prepared and not activated."""
        prepared, self.prepared = self.prepared, {}
        for revision in prepared.values():
            revision.close()

    def _open_serving(self, first: Prepared) -> Serving:
        if self.equipment is None or self.table is None or self.lines is None or self.tally is None:
            raise RuntimeError("Configure came before Equip or UseKeys")
        serving = Serving.open(
            self.loop,
            self.start_task,
            self.lines.write,
            self.wall_clock,
            self.open_engine,
            worker_id=self.identity.worker_id,
            equipment=self.equipment,
            table=self.table,
            first=first,
            progress=self.tally.progress,
            open_files=self.handlers.open_files,
        )
        serving.endpoint.use_roster(self.roster.workers, unborn(self.roster))
        return serving

    def _activate(self, revision: int) -> None:
        prepared = self.prepared.pop(revision, None)
        if prepared is None or self.serving is None or self.table is None:
            raise RuntimeError(f"revision {revision} was never prepared")
        telemetry = prepared.config.telemetry or prepared.config.server.telemetry
        if self.logs is not None:
            self.logs.use(structured=telemetry.structured_logs, level=prepared.config.server.log_level)
        self.serving.use(prepared, self.table)
        self.supervision.report(m.Ready(revision))
        self._show_title()

    def _drain(self, order: m.Drain) -> None:
        serving = self.serving
        if serving is None or serving.active is None:
            self._drained(0, 0)
            return
        now_s = self.loop.time()
        if self.leaving is not None:
            self.leaving.renew(now_s + order.deadline_s, order.spread_s, discourage=order.discourage)
        else:
            drain = Drain(now_s, now_s + order.deadline_s, order.spread_s, order.discourage, serving.told)
            self.leaving = Leaving(self.loop, serving, drain, self._drained)
        self._show_title()

    def _drained(self, lost: int, cut: int) -> None:
        self.supervision.report(m.Drained(lost, cut))

    def _abort(self, age_s: float) -> None:
        closed = (0, 0)
        if self.serving is not None:
            closed = self.serving.close_connections(age_s, "abort", "aborted by the operator")
        self.supervision.report(m.Aborted(*closed))

    def _move(self, order: m.Move) -> None:
        if self.moving is not None:
            if self.moving.running and self.moving.epochs == order.epochs:
                return  # asked again: each connection keeps its turn
            self.moving.stop()
            self.moving = None
        if self.serving is None or self.serving.active is None or self.leaving is not None:
            return  # nobody is here, or everybody leaves anyway

        def config_ids() -> list[int]:
            table = self.table
            if table is None or self.leaving is not None:
                return []
            old = [epoch for epoch in order.epochs if epoch in table.cid_live and epoch != table.seal_with]
            return [epoch % CID_CONFIGS for epoch in old]

        self.moving = Moving(self.loop, self.serving, order.epochs, config_ids, order.spread_s)

    def _resume(self) -> None:
        if self.leaving is not None:
            self.leaving.stop()
            self.leaving = None
        self._show_title()

    def stop(self) -> None:
        """Close what is left and let `run` end."""
        if not self.stopping:
            self.stopping = True
            self.start_task(self._stop())

    async def _stop(self) -> None:
        serving = self.serving
        if serving is not None and serving.active is not None:
            serving.close_connections(None, "stop")
            if not await serving.endpoint.drained_output(_LAST_FLUSH_S):
                log.warning("some last packets did not leave: the socket had no room")
            serving.endpoint.stop()
            serving.exchanges.use(None)
        self._drop_prepared()
        self._count()
        if self.lines is not None:
            self.lines.close(logs.CLOSE_S)
        if not self.stopped.done():
            self.stopped.set_result(None)

    def close(self) -> None:
        """End every timer and hang up: nothing of us is left in the loop."""
        if self.moving is not None:
            self.moving.stop()
        if self.leaving is not None:
            self.leaving.stop()
        if self.heartbeat_timer is not None:
            self.heartbeat_timer.cancel()
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
            draining=self.leaving is not None,
            version=__version__,
            oldest_protocol=m.OLDEST_PROTOCOL,
        )

    def held(self) -> list[tuple[m.Held, Sequence[int]]]:
        """Return what a successor of the supervisor needs back: the sockets of our slot and of those we keep."""
        held: list[tuple[m.Held, Sequence[int]]] = []
        slot, own = self.identity.slot, self.equipment
        if own is not None:
            held.append((m.Held(slot), own.held(slot)))
        # Last those that a supervisor waits for: our own and our core's other one, which came first.
        return [(m.Held(slot), kept) for slot, kept in reversed(self.kept.items())] + held

    def _heartbeat(self) -> None:
        self.heartbeat_timer = self.loop.call_later(_HEARTBEAT_S, self._heartbeat)
        assert self.lag is not None
        lag_s = self.lag.take_s()
        counters = self._count(lag_s)
        connections, half_open = self._connections(counters)
        by_config = self.serving.engine.connections_by_config() if self.serving is not None else {}
        self.supervision.report(
            m.Heartbeat(
                connections,
                half_open,
                counters.get("requests", 0),
                lag_s * 1000,
                self.memory.rss_bytes(),
                by_config,
                self.leaving.left() if self.leaving is not None else None,
            )
        )
        self._show_title(connections)

    def _count(self, lag_s: float = 0.0) -> dict[str, int]:
        """Bring the slab up to date; return the counters."""
        serving = self.serving
        if serving is None or self.tally is None:
            return {}
        counters = serving.counters()
        counters["log_lines_lost"] = logs.lost() + (self.lines.lost if self.lines is not None else 0)
        connections, half_open = self._connections(counters)
        self.tally.update(
            counters,
            {
                "connections": connections,
                "half_open": half_open,
                "streams": serving.exchanges.running,
                "rss_bytes": self.memory.rss_bytes(),
                "open_files": self.handlers.open_files.count,
                "loop_lag_us": int(lag_s * 1e6),
            },
        )
        serving.exchanges.access_log.flush()
        return counters

    def _connections(self, counters: dict[str, int]) -> tuple[int, int]:
        """Return (all connections, those whose handshake is not complete)."""
        if self.serving is None or not counters:
            return 0, 0
        present = counters["connections_opened"] - counters["connections_closed"]
        return present, max(0, present - len(self.serving.exchanges.connections))

    def _has_drained(self) -> bool:
        return self.leaving is not None and self.leaving.drain.over

    def _show_title(self, connections: int | None = None) -> None:
        if connections is None:
            connections = len(self.serving.exchanges.connections) if self.serving is not None else 0
        if self.serving is None or self.serving.active is None:
            state = "starting"
        elif self.leaving is not None:
            state = "drained" if self.leaving.drain.over else "draining"
        else:
            state = "serving"
        if self.supervision.orphaned:
            runtime = str(Path(self.supervision.successor_path).parent)
            state += without_supervisor(runtime, self.supervision.alone_at_s)
        show_title(self.identity.worker_id, self.identity.cpu, state, connections)

    def _keep(self, slot: int, descriptors: list[int]) -> None:
        for fd in self.kept.get(slot, ()):
            os.close(fd)
        self.kept[slot] = descriptors


def unborn(roster: m.Roster) -> frozenset[int]:
    """Return the worker ids that may have been lent after *roster* was said: the next ones in turn."""
    if not roster.unborn_from:
        return frozenset()
    return frozenset((roster.unborn_from - 1 + ahead) % MAX_WORKER_ID + 1 for ahead in range(_UNBORN_IDS))
