"""How many files may be open, and how many of them one connection may hold by answers that it does not read.

A large file is sent from its descriptor, which stays open until the last byte is acknowledged: a client that gives no
window holds it for as long as it likes. The process has `limit` of them. Above half of that, caches keep none, and a
connection may hold only `SHARE` different ones; at the limit none is opened. What is refused is a 503. Answers from
memory and further answers from a file that is open need no descriptor, and are never refused.
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
        #: Stream -> its connection and the descriptor that its answer is read from. Numbers only: who reads from a file
        #: keeps it open, and an engine may be done with it long before its stream is closed.
        self.in_flight: dict[int, tuple[int, int]] = {}
        #: Connection -> descriptor -> how many of its streams hold it.
        self._held: dict[int, dict[int, int]] = {}

    @property
    def count(self) -> int:
        """Descriptors that are open: of answers, of caches, of the sites' directories."""
        return Descriptor.alive

    @property
    def crowded(self) -> bool:
        """Whether they must be shared."""
        return 2 * Descriptor.alive > self.limit

    @property
    def full(self) -> bool:
        """Whether no further one may be opened."""
        return Descriptor.alive >= self.limit

    def may_send(self, connection: int, body: object) -> bool:
        """Return whether *connection* may get this body: what is not read from a file always."""
        file = _file(body)
        if file is None or not self.crowded:
            return True
        held = self._held.get(connection, {})
        return file.fd in held or len(held) < SHARE

    def sent(self, connection: int, stream: int, body: object) -> None:
        """*body* is the answer on *stream*, from now on until `release`."""
        file = _file(body)
        if file is None:
            return
        self.in_flight[stream] = (connection, file.fd)
        held = self._held.setdefault(connection, {})
        held[file.fd] = held.get(file.fd, 0) + 1

    def release(self, stream: int) -> None:
        """The stream is closed."""
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
    """Return the open file that a body is read from: of a `FileRange`, or of chunks that have one."""
    return getattr(body, "file", None)
