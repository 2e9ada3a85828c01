"""Work of requests that waits for a later turn of the loop: one item of each connection in turn, bounded in bytes.

A turn has a time budget (turns.py). Work above it waits here, so that timers, the heartbeat, orders and packets are
processed between two slices of requests. The next item is always one of the connection that was served longest ago, and
the items of a connection keep their order, so that many requests of one connection delay only that one.

The number of items is bounded by the number of streams, and their fields by `MAX_BYTES`. The second half of that space
is reserved for connections with little waiting, so that a few connections cannot fill it. Pure: no clock, no loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from velocity_edge.http.requests import RequestReceived

#: A request as a browser sends it is about 2 KiB of Python objects: 30,000 of them may wait, which are some seconds of
#: work. Beyond that, a 503 is the better answer.
MAX_BYTES: Final = 64 * 1024 * 1024
#: What a connection may have waiting in the second half of the space: a page and its first subresources.
SMALL_BYTES: Final = 16 * 1024

#: Memory of a field and of a request in addition to their text: tuples, byte strings, the event.
_FIELD_BYTES: Final = 128
_REQUEST_BYTES: Final = 1024

Work = Callable[[], None]


def weight_of(request: RequestReceived) -> int:
    """Return the approximate memory of a waiting request in bytes."""
    fields = sum(_FIELD_BYTES + len(name) + len(value) for name, value in request.headers)
    return _REQUEST_BYTES + len(request.path) + len(request.authority) + fields


class Backlog:
    """Waiting work, at most one item per stream."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        #: Connection -> stream -> (what to do, its bytes). The first connection is the next one.
        self._queues: OrderedDict[int, OrderedDict[int, tuple[Work, int]]] = OrderedDict()
        self._queue_bytes: dict[int, int] = {}
        #: Stream -> its connection, for each item. Public because it is read for each request.
        self.waiting: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, connection: int, stream: int, work: Work, n_bytes: int = 0) -> bool:
        """Add *work*, which keeps *n_bytes* of memory. False: there is no space for it."""
        own_bytes = self._queue_bytes.get(connection, 0) + n_bytes
        allowed_bytes = self._max_bytes if own_bytes <= SMALL_BYTES else self._max_bytes // 2
        if n_bytes and self._bytes + n_bytes > allowed_bytes:
            return False
        self._queues.setdefault(connection, OrderedDict())[stream] = (work, n_bytes)
        self.waiting[stream] = connection
        self._queue_bytes[connection] = own_bytes
        self._bytes += n_bytes
        return True

    def take(self) -> Work:
        """Return the next item. Raises KeyError when there is none."""
        connection, queue = self._queues.popitem(last=False)
        self._queues[connection] = queue  # behind all others
        return self._remove(connection, next(iter(queue)))

    def drop(self, stream: int) -> None:
        """Remove the item of *stream*, if there is one: the stream is closed."""
        connection = self.waiting.get(stream)
        if connection is not None:
            self._remove(connection, stream)

    def _remove(self, connection: int, stream: int) -> Work:
        queue = self._queues[connection]
        work, n_bytes = queue.pop(stream)
        del self.waiting[stream]
        self._bytes -= n_bytes
        self._queue_bytes[connection] -= n_bytes
        if not queue:
            del self._queues[connection], self._queue_bytes[connection]
        return work
