"""Health of this worker: the lag of its loop, its memory, its counters in the slab, its title in `ps`.

The lag is measured by the loop that serves packets: the lateness of a timer that should fire every 250 ms. A separate
thread would not notice a blocked loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from setproctitle import setproctitle

from velocity_edge.wire.counters import TOTALS
from velocity_edge.wire.slab import Slab
from velocity_edge.wire.titles import worker_title

_PROBE_S: Final = 0.25
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class LoopLag:
    """The worst lateness of the loop since the last call of `take_s`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, progress: Callable[[], None] = lambda: None) -> None:
        """*progress* is called with each probe: the loop runs."""
        self._loop = loop
        self._progress = progress
        self._worst_s = 0.0
        self._expected_s = loop.time() + _PROBE_S
        self._timer = loop.call_at(self._expected_s, self._probe)

    def take_s(self) -> float:
        """Return the worst lateness since the last call, in seconds."""
        # A probe that is overdue right now counts as well.
        worst_s = max(self._worst_s, self._loop.time() - self._expected_s)
        self._worst_s = 0.0
        return worst_s

    def stop(self) -> None:
        """Stop measuring."""
        self._timer.cancel()

    def _probe(self) -> None:
        self._progress()
        now_s = self._loop.time()
        self._worst_s = max(self._worst_s, now_s - self._expected_s)
        self._expected_s = now_s + _PROBE_S
        self._timer = self._loop.call_at(self._expected_s, self._probe)


class Memory:
    """Resident bytes of this process. Opened before the privileges are dropped; read at any time."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def rss_bytes(self) -> int:
        """Return the resident set."""
        return int(os.pread(self._fd, 128, 0).split()[1]) * _PAGE_BYTES


class Tally:
    """Adds the increments of the engine's counters to the slab, which continues those of a predecessor."""

    def __init__(self, slab: Slab, worker_id: int) -> None:
        self._slab = slab
        self._worker_id = worker_id
        self._told: dict[str, int] = {}
        slab.take_over()
        #: Counts progress; a supervisor that gets no heartbeat checks whether it increases.
        self.progress = slab.ticker("progress")

    def update(self, counters: Mapping[str, int], gauges: Mapping[str, int]) -> None:
        """Write both. *counters* are totals since the start of this process, by the names of counters.py."""
        told = self._told
        self._slab.add({name: counters[name] - told.get(name, 0) for name in TOTALS if name in counters})
        self._told = dict(counters)
        self._slab.set({**gauges, "worker_id": self._worker_id, "heartbeat_ns": time.monotonic_ns()})


def show_title(worker_id: int, cpu: int, state: str, connections: int) -> None:
    """Set what `ps` shows."""
    setproctitle(worker_title(worker_id, cpu, state, connections))
