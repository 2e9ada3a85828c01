"""Writes lines from a thread of its own, with a bounded queue, so that callers never block.

A slow reader of the output (a full pipe, a slow log collector) costs lines, not latency, and never blocks the exit of a
process: lost lines are counted, and reported in the output when it accepts data again. Output that fails (EPIPE, a full
disk) is treated the same way.

`say_now` writes without a thread: before one may be started, and where a process exits at once.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

#: Bytes that may wait for a slow reader of the output.
MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
#: A pipe that is ready takes this much without blocking (PIPE_BUF, pipe(7)).
_ATOMIC_BYTES: Final = 4096
#: After an error that may be temporary, such as a full disk.
_RETRY_S: Final = 1.0


class LineWriter:
    """Writes whole lines to a descriptor from a daemon thread. Create it after the privileges were dropped."""

    def __init__(self, fd: int, lost_line: Callable[[int], bytes], *, lost: int = 0) -> None:
        """*lost_line* makes the line that reports lost lines; *lost* were lost before and are not reported yet."""
        self._fd = fd
        self._lost_line = lost_line
        self._queue: deque[bytes] = deque()
        #: Bytes in the queue, and those that the thread is writing.
        self._queued_bytes = 0
        #: Lost and not reported yet.
        self._unsaid = lost
        #: Lost since the process began.
        self.lost = 0
        self._wake = threading.Condition()
        self._closing = False
        self._in_hand = b""
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def write(self, lines: bytes) -> None:
        """Queue *lines*; above the bound they are dropped and counted."""
        with self._wake:
            if self._queued_bytes + len(lines) > MAX_QUEUED_BYTES:
                self._lose(lines)
                return
            self._queue.append(lines)
            self._queued_bytes += len(lines)
            self._wake.notify()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written, for at most *timeout_s*; return whether it is."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._queued_bytes, timeout_s)

    def close(self, timeout_s: float) -> int:
        """Write the queue, for at most *timeout_s*. Return the number of lost lines that were not reported."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)
        with self._wake:
            if self._thread.is_alive():
                self._lose(self._in_hand)
                self._lose(b"".join(self._queue))
                self._queue.clear()
            return self._unsaid

    def _lose(self, lines: bytes) -> None:
        n_lines = lines.count(b"\n")
        self.lost += n_lines
        self._unsaid += n_lines

    def _run(self) -> None:
        while True:
            with self._wake:
                self._queued_bytes -= len(self._in_hand)
                self._in_hand = b""
                self._wake.notify_all()
                while not (self._queue or self._unsaid or self._closing):
                    self._wake.wait()
                if not (self._queue or self._unsaid):
                    return
                said = self._unsaid
                data = b"".join(self._queue)
                self._queue.clear()
                self._in_hand = data
            written = self._write_all(data + (self._lost_line(said) if said else b""))
            with self._wake:
                if written:
                    self._unsaid -= said
                else:
                    self._lose(data)
                    if self._closing:
                        return
                    self._wake.wait_for(lambda: self._closing, _RETRY_S)

    def _write_all(self, data: bytes) -> bool:
        """Write all of *data*, however long it takes; False: the output failed."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Another process that shares the pipe has made it non-blocking.
                select.select((), (self._fd,), ())
            except OSError:
                return False
        return True


def say_now(fd: int, text: str, patience_s: float = 0.0) -> bool:
    """Write *text* and a line break to *fd* at once, waiting no longer than *patience_s* for a slow reader.

    Return whether all of it was written.
    """
    view = memoryview(f"{text}\n".encode(errors="backslashreplace"))
    end_s = time.monotonic() + patience_s
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    try:
        while view:
            ready = poll.poll(max(0, int((end_s - time.monotonic()) * 1000)))
            if not ready:
                return False
            view = view[os.write(fd, view[:_ATOMIC_BYTES]) :]
    except BlockingIOError:
        return False
    except OSError:
        return False  # there is no reader any more
    return True
