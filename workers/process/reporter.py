"""What a worker tells about itself every second: the heartbeat, its counters in the slab, its title in `ps`.

It also has the worker's log and the access log's writer, whose lost lines are counted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from velocity_edge.text import logs
from velocity_edge.text.lines import LineWriter
from velocity_edge.wire import messages as m
from velocity_edge.wire.slab import Slab
from velocity_edge.wire.titles import without_supervisor
from workers.handlers.static.open_files import OpenFiles
from workers.measures import Measures
from workers.process.state import State
from workers.process.supervision import Supervision
from workers.process.vitals import LoopLag, Memory, Tally, show_title
from workers.serve.access_log import access_lines_lost

_HEARTBEAT_S: Final = 1.0


class Reporter:
    """The reports of one worker. Created with `Equip`, after the privileges were dropped: it starts threads."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        state: State,
        supervision: Supervision,
        memory: Memory,
        open_files: OpenFiles,
        slab: Slab,
        measures: Measures,
        show: Callable[[], None] = lambda: None,
    ) -> None:
        """*show* sets gauges among *measures*; it is called every second."""
        self._loop = loop
        self._state = state
        self.supervision = supervision
        self._memory = memory
        self._open_files = open_files
        self._measures = measures
        self._show = show
        supervision.on_successor = self._report_all
        worker_id = state.identity.worker_id
        self.logs = logs.set_up(f"worker {worker_id}")
        self.lines = LineWriter(1, access_lines_lost)
        self.tally = Tally(slab, worker_id)
        self.lag = LoopLag(loop, self.tally.progress)
        self._timer = loop.call_later(_HEARTBEAT_S, self._heartbeat)

    def count(self, lag_s: float = 0.0) -> dict[str, int]:
        """Write counters and gauges to the slab; return the counters."""
        serving = self._state.serving
        if serving is None:
            return {}
        counters = serving.counters()
        counters["log_lines_lost"] = logs.lost() + self.lines.lost
        connections, half_open = self._connections(counters)
        self.tally.update(
            counters,
            {
                "connections": connections,
                "half_open": half_open,
                "streams": serving.exchanges.running,
                "rss_bytes": self._memory.rss_bytes(),
                "open_files": self._open_files.count,
                "loop_lag_us": int(lag_s * 1e6),
            },
        )
        serving.exchanges.access_log.flush()
        serving.exchanges.spans.flush()
        return counters

    def close(self) -> None:
        """Stop the timers, close the log."""
        self._timer.cancel()
        self.lag.stop()
        self.logs.close()

    def _heartbeat(self) -> None:
        self._timer = self._loop.call_later(_HEARTBEAT_S, self._heartbeat)
        state = self._state
        lag_s = self.lag.take_s()
        counters = self.count(lag_s)
        connections, half_open = self._connections(counters)
        self.supervision.report(
            m.Heartbeat(
                connections,
                half_open,
                counters.get("requests", 0),
                lag_s * 1000,
                self._memory.rss_bytes(),
                state.serving.engine.connections_by_config() if state.serving is not None else {},
                state.drain.left() if state.drain is not None else None,
            )
        )
        self._show()
        self.report_measures()
        title(state, self.supervision, connections)

    def report_measures(self) -> None:
        """Report the series that changed. Without a supervisor they are reported to the next one."""
        if self.supervision.orphaned:
            return
        gone = {name: [list(labels) for labels in keys] for name, keys in self._measures.forgotten().items()}
        some: dict[str, list[tuple[list[str], list[float]]]] = {}
        count = 0
        for family, changed in self._measures.changes().items():
            for labels, numbers in changed:
                some.setdefault(family, []).append((list(labels), numbers))
                count += 1
                if count == m.MAX_MEASURED:
                    self.supervision.report(m.Measured(some, gone))
                    some, gone, count = {}, {}, 0
        if some or gone:
            self.supervision.report(m.Measured(some, gone))

    def _report_all(self) -> None:
        self._measures.everything()
        self.report_measures()

    def _connections(self, counters: dict[str, int]) -> tuple[int, int]:
        """Return (all connections, those whose handshake is not complete)."""
        if not counters:
            return 0, 0
        present = counters["connections_opened"] - counters["connections_closed"]
        return present, max(0, present - self._state.established)


def title(state: State, supervision: Supervision, connections: int | None = None) -> None:
    """Set what `ps` shows; without *connections*, with the number of established ones."""
    phase = state.phase
    if supervision.orphaned:
        runtime = str(Path(supervision.successor_path).parent)
        phase += without_supervisor(runtime, supervision.alone_at_s)
    shown = state.established if connections is None else connections
    show_title(state.identity.worker_id, state.identity.cpu, phase, shown)
