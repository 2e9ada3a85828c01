"""One worker: carries out orders and puts the parts together (docs/architecture.md, "Messages without replies").

    order       what happens here
    Equip       take the sockets, drop the privileges
    Keep        keep the other slot's sockets for a successor of the supervisor
    UseKeys     engine, admission and tickets use them -> KeysInUse
    Roster      whose strays are handed over
    Configure   build the revision beside the running one -> Prepared or Refused
    Activate    put it in place; the first one starts the serving -> Ready
    Drain       closing.py -> Drained                       Resume  end the drain
    Abort       close old connections -> Aborted            Stop    close all, and exit 0
    Move        closing.py: replace the connection IDs of old keys
    SetLogLevels  log at other levels for a time

The engine is created with the first revision and lives as long as the process: another engine or user needs another
worker (the supervisor replaces them), everything else changes with a reload.

The supervisor may end at any time: nothing here needs it for serving (supervision.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, assert_never

from velocity_edge.keys.table import table_of
from velocity_edge.quic.datagrams import EngineSettings, Upcalls
from velocity_edge.quic.open_engine import Engine
from velocity_edge.text import logs
from velocity_edge.text.log_levels import LogLevels, parse_levels
from velocity_edge.wire import messages as m
from velocity_edge.wire.channel import Received
from velocity_edge.wire.cid import MAX_WORKER_ID
from velocity_edge.wire.slab import Slab
from workers.handlers.build import HandlerContext
from workers.process import closing
from workers.process.candidates import Candidates
from workers.process.reporter import Reporter, title
from workers.process.state import Identity, State
from workers.process.supervision import Supervision
from workers.process.vitals import Memory, show_title
from workers.serve.revisions import Prepared
from workers.serve.serving import Equipment, Serving

log = logging.getLogger(__name__)

#: More new workers than a worker can miss before it is killed for its silence.
_UNBORN_IDS: Final = 256
#: For the last packets at the end. CONNECTION_CLOSE is sent once; a peer that misses it times out or gets a reset.
_LAST_FLUSH_S: Final = 1.0


class Worker:
    """The reactions of one worker to its orders. `run` ends when it was told to stop."""

    def __init__(
        self,
        identity: Identity,
        open_engine: Callable[[EngineSettings, Upcalls], Engine],
        loop: asyncio.AbstractEventLoop,
        start_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        drop_privileges: Callable[[], None],
        memory: Memory,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """*open_engine* creates the engine; *drop_privileges* is called once, when the sockets are here."""
        self.state = State(identity)
        self.supervision = Supervision(
            loop, self.obey, self.state.hello, self.state.held, lambda: self.state.drained, wall_clock
        )
        self._open_engine = open_engine
        self._loop = loop
        self._start_task = start_task
        self._drop_privileges = drop_privileges
        self._memory = memory
        self._wall_clock = wall_clock
        self._handlers = HandlerContext(wall_clock)
        self._candidates = Candidates(self._handlers)
        self._reporter: Reporter | None = None
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._stopping = False
        #: What an operator wants for a time; it may come before the log is set up.
        self._log_levels = LogLevels()
        self._log_levels_end: asyncio.TimerHandle | None = None

    async def run(self, channel: socket.socket) -> None:
        """Serve until `Stop`."""
        self.supervision.adopt(channel, first=True)
        show_title(self.state.identity.worker_id, self.state.identity.cpu, "starting", 0)
        await self._stopped

    # --- orders ------------------------------------------------------------------------------------------------------

    def obey(self, received: Received[m.Order]) -> None:
        """Carry out one order. Bugs crash; what the operator can fix becomes `Refused`."""
        order = received.message
        match order:
            case m.Equip():
                self._equip(order, received.descriptors)
            case m.Keep():
                self.state.keep(order.slot, received.descriptors)
            case m.UseKeys():
                self._use_keys(order)
            case m.Roster():
                self.state.roster = order
                if self.state.serving is not None:
                    self.state.serving.endpoint.use_roster(order.workers, unborn(order))
            case m.Configure():
                report = self._candidates.configure(order, received.descriptors, self._check)
                self.supervision.report(report)
            case m.Activate():
                self._activate(order.revision)
            case m.Drain():
                closing.drain(order, self.state, self._loop, self.supervision.report)
                title(self.state, self.supervision)
            case m.Resume():
                closing.resume(self.state)
                title(self.state, self.supervision)
            case m.Abort():
                self.supervision.report(closing.abort(order, self.state))
            case m.Move():
                closing.move(order, self.state, self._loop)
            case m.SetLogLevels(levels, for_s):
                self._set_log_levels(levels, for_s)
            case m.Stop():
                self.stop()
            case _ as forgotten:
                assert_never(forgotten)

    def _equip(self, order: m.Equip, descriptors: Sequence[int]) -> None:
        if self.state.equipment is not None:
            raise RuntimeError("equipped twice")
        self.state.equipment = equipment = Equipment.of(order, descriptors)
        self._handlers.rate_cells = equipment.rate_cells()
        self.supervision.successor_path = order.successor_path
        self._drop_privileges()
        slab = Slab(equipment.bundle.slab)
        self._reporter = Reporter(
            self._loop,
            self.state,
            self.supervision,
            self._memory,
            self._handlers.open_files,
            slab,
            self._handlers.measures,
            self._handlers.proxies.overview.show,
        )
        self._reporter.logs.override(self._log_levels)

    def _use_keys(self, order: m.UseKeys) -> None:
        self.state.table = table_of(order)
        self._handlers.sealer.use(self.state.table)
        if self.state.serving is not None:
            self.state.serving.use_keys(self.state.table)
        self.supervision.report(m.KeysInUse([epoch.epoch for epoch in order.epochs], order.seal_with, order.closed))

    def _check(self, prepared: Prepared) -> None:
        """Raise `VelocityError` for what keys or engine cannot do. The first revision creates the engine."""
        if self.state.table is not None:
            prepared.policy(self.state.table)
        if self.state.serving is None:
            self.state.serving = self._open_serving(prepared)
        self.state.serving.settings_of(prepared)

    def _open_serving(self, first: Prepared) -> Serving:
        equipment, table, reporter = self.state.equipment, self.state.table, self._reporter
        if equipment is None or table is None or reporter is None:
            raise RuntimeError("Configure came before Equip or UseKeys")
        serving = Serving.open(
            self._loop,
            self._start_task,
            reporter.lines.write,
            self._wall_clock,
            self._open_engine,
            worker_id=self.state.identity.worker_id,
            equipment=equipment,
            table=table,
            first=first,
            progress=reporter.tally.progress,
            open_files=self._handlers.open_files,
            measures=self._handlers.measures,
        )
        serving.endpoint.use_roster(self.state.roster.workers, unborn(self.state.roster))
        self._handlers.proxies.forwarding = serving.forwarding
        return serving

    def _activate(self, revision: int) -> None:
        prepared = self._candidates.take(revision)
        serving, table = self.state.serving, self.state.table
        assert serving is not None
        assert table is not None
        telemetry = prepared.config.telemetry or prepared.config.server.telemetry
        if self._reporter is not None:
            server = prepared.config.server
            levels = parse_levels(server.log_levels)
            self._reporter.logs.use(structured=telemetry.structured_logs, level=server.log_level, levels=levels)
        serving.use(prepared, table)
        self.supervision.report(m.Ready(revision))
        title(self.state, self.supervision)

    def _set_log_levels(self, levels: str, for_s: float) -> None:
        if self._log_levels_end is not None:
            self._log_levels_end.cancel()
        self._log_levels = parse_levels(levels)
        self._log_levels_end = self._loop.call_later(for_s, self._set_log_levels, "", 0.0) if levels else None
        if self._reporter is not None:
            self._reporter.logs.override(self._log_levels)

    def stop(self) -> None:
        """Close all connections and let `run` end."""
        if not self._stopping:
            self._stopping = True
            self._start_task(self._stop())

    async def _stop(self) -> None:
        serving = self.state.serving
        if serving is not None and serving.active is not None:
            serving.close_connections(None, "stop")
            if not await serving.endpoint.drained_output(_LAST_FLUSH_S):
                log.warning("some last packets were not sent: the socket buffer is full")
            serving.endpoint.stop()
            serving.exchanges.use(None)
        self._candidates.close()
        if self._reporter is not None:
            self._reporter.count()
            self._reporter.report_measures()
            self._reporter.lines.close(logs.CLOSE_S)
        if not self._stopped.done():
            self._stopped.set_result(None)

    def close(self) -> None:
        """Stop every timer and close the channel: nothing of this worker remains in the loop."""
        if self._log_levels_end is not None:
            self._log_levels_end.cancel()
        closing.stop(self.state)
        if self._reporter is not None:
            self._reporter.close()
        self.supervision.close()


def unborn(roster: m.Roster) -> frozenset[int]:
    """Return the worker ids that may have been assigned since *roster* was sent: the next ones in turn."""
    if not roster.unborn_from:
        return frozenset()
    return frozenset((roster.unborn_from - 1 + ahead) % MAX_WORKER_ID + 1 for ahead in range(_UNBORN_IDS))
