"""Bounds of open files: of the process, and of one connection by responses that its client does not read.

A large file is sent from its descriptor, which stays open until the last byte is acknowledged: a client that extends no
flow control credit keeps it open. The process may have `limit` of them. Above half of that, caches keep none, and a
connection may use only `SHARE` different ones; at the limit none is opened. A refused request gets a 503. Responses
from memory and further responses from an open file need no new descriptor, and are never refused.
"""

from __future__ import annotations

import resource
from typing import Final

from velocity_edge.http.requests import OpenFile
from workers.handlers.static.beneath import Descriptor

#: Different large files of a connection while the process is short of descriptors: a page with a video and its parts.
SHARE: Final = 4
#: Descriptors that are not files: sockets, links to other workers, the channel, engines, logs.
_RESERVED: Final = 256


def default_limit() -> int:
    """Return how many descriptors may be files, by RLIMIT_NOFILE; small limits are halved."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - _RESERVED, soft // 2)


class OpenFiles:
    """The open files of one worker."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = default_limit() if limit is None else limit
        #: Stream -> its connection and the descriptor that its response is read from. Numbers only: the engine keeps
        #: the file open while it reads, and may release it long before the stream is closed.
        self.in_flight: dict[int, tuple[int, int]] = {}
        #: Connection -> descriptor -> how many of its streams hold it.
        self._held: dict[int, dict[int, int]] = {}

    @property
    def count(self) -> int:
        """Number of open descriptors: of responses, of caches, of the sites' directories."""
        return Descriptor.alive

    @property
    def crowded(self) -> bool:
        """Whether descriptors are scarce."""
        return 2 * Descriptor.alive > self.limit

    @property
    def full(self) -> bool:
        """Whether no further file may be opened."""
        return Descriptor.alive >= self.limit

    def may_send(self, connection: int, body: object) -> bool:
        """Return whether *connection* may get this body: always, unless it is read from a file."""
        file = _file(body)
        if file is None or not self.crowded:
            return True
        held = self._held.get(connection, {})
        return file.fd in held or len(held) < SHARE

    def sent(self, connection: int, stream: int, body: object) -> None:
        """Count *body* as the response on *stream* until `release`."""
        file = _file(body)
        if file is None:
            return
        self.in_flight[stream] = (connection, file.fd)
        held = self._held.setdefault(connection, {})
        held[file.fd] = held.get(file.fd, 0) + 1

    def release(self, stream: int) -> None:
        """Stop counting the response on a closed stream."""
        found = self.in_flight.pop(stream, None)
        if found is None:
            return
        connection, fd = found
        held = self._held[connection]
        held[fd] -= 1
        if not held[fd]:
            del held[fd]
            if not held:
                del self._held[connection]


def _file(body: object) -> OpenFile | None:
    """Return the open file that a body is read from: of a `FileRange`, or of chunks with a `file`."""
    return getattr(body, "file", None)
