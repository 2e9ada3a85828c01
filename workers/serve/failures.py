"""Failures of one request: an exception in a handler, or a body that cannot be sent to its end.

An exception is a 500 with a number that the log line has, too. A body that is cut short is not a bug (a file was
truncated during a download, a disk fails): it is counted, and logged once per second.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from velocity_edge.http.requests import RequestReceived
from velocity_edge.quic.budget import PerSecond
from workers.http import BodyCutShort, Response, plain

log = logging.getLogger(__name__)


def internal_error(error: Exception, event: RequestReceived) -> Response:
    """Log *error* under a number of its own, and return the 500 that names it.

    MemoryError is raised again: further requests would fail, too, and a worker that exits is replaced.
    """
    if isinstance(error, MemoryError):
        raise error
    number = os.urandom(6).hex()
    log.error(
        "handler failed, error %s: %s %s: %s: %s",
        number,
        event.method.decode("latin-1"),
        event.path[:200].decode("latin-1"),
        type(error).__name__,
        error,
        exc_info=error,
    )
    return plain(500, f"Internal error {number}; see the server log.")


class CutShort:
    """Bodies that ended before their announced end."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.count = 0
        self._now_ns = now_ns
        self._lines = PerSecond(1)

    def add(self, error: BodyCutShort, event: RequestReceived) -> None:
        """Count one, and log it unless one was logged in this second."""
        self.count += 1
        if self._lines.take(self._now_ns()):
            path = event.path[:200].decode("latin-1")
            log.warning("a response was cut short (%d so far): %s: %s", self.count, path, error)
