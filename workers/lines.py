"""Writing log lines without ever holding up the serving loop: a thread of its own, a bounded queue in between.

A reader of our output that stalls (a full pipe) costs lines, not latency; how many were lost is said once it reads on.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Final

#: What may wait for a slow reader of our output.
_MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024


class LineWriter:
    """Writes whole lines to a descriptor from a daemon thread. Start it after rights were dropped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._lost = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def write(self, lines: bytes) -> None:
        """Queue *lines*; above the bound they are counted and dropped."""
        with self._wake:
            if self._queued_bytes + len(lines) > _MAX_QUEUED_BYTES:
                self._lost += lines.count(b"\n")
                return
            self._queue.append(lines)
            self._queued_bytes += len(lines)
            self._wake.notify()

    def close(self, timeout_s: float) -> None:
        """Write what waits, for at most so long."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                data = b"".join(self._queue)
                self._queue.clear()
                self._queued_bytes = 0
                lost, self._lost = self._lost, 0
            if lost:
                data += b'{"event":"access_lines_lost","lines":%d}\n' % lost
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError:
                return  # nobody reads any more: the rest has nowhere to go
