"""Whether early data (0-RTT) is accepted: fresh, from this node, and for the first time on any of its workers.

Early data can be replayed, so each ticket opens it once (RFC 8446 section 8). Workers share no memory, so "once" is a
file created with O_EXCL on a tmpfs: atomic between processes, 18 us. When it cannot be created for any reason, early
data is refused, and the client continues in 1-RTT.

The directory is named after the time at which the client *claims* to have sent its hello, not after the node's clock. A
replay carries the same claim (the PSK binder signs it), so it meets the same directory; and a directory can be deleted
as soon as its claims are too old to be fresh.

Early requests count as replayable nevertheless: only GET and HEAD, where a route allows it (RFC 8470). Default: off.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from velocity_edge.tls.tickets import TicketState

#: How far the client's claim may be from the node's clock (RFC 8446 section 8.3).
FRESH_S: Final = 10.0
_WINDOW_S: Final = 20.0


class ReplayGuard(Protocol):
    """Remembers what was used: here for early data, in quic/single_use.py for address tokens.

    Early data is rare and valid for seconds, so its names are kept whole. Tokens are many and valid for a day, so each
    has one bit.
    """

    def first_use(self, name: bytes, claimed_s: float, now_s: float) -> bool:
        """Whether *name* was never used before; False, too, when that cannot be determined."""


class DirectoryGuard:
    """A `ReplayGuard` in a directory that all workers of a node share (tmpfs, opened before privileges are dropped)."""

    def __init__(self, directory_fd: int, max_per_window: int = 50_000) -> None:
        self._directory_fd = directory_fd
        self._max_per_window = max_per_window
        self._windows: dict[int, int] = {}

    def first_use(self, name: bytes, claimed_s: float, now_s: float) -> bool:
        """Whether *name* was never used before on this node. Fails closed: full, or any error of the file system."""
        window = int(claimed_s // _WINDOW_S)
        try:
            if window not in self._windows:
                self._expire(now_s)
                self._make(window)
                self._windows[window] = 0
            if self._windows[window] >= self._max_per_window:
                return False
            self._windows[window] += 1
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(f"{window}/{name.hex()}", flags, 0o600, dir_fd=self._directory_fd))
        except OSError:
            return False
        return True

    def _make(self, window: int) -> None:
        try:
            os.mkdir(str(window), 0o700, dir_fd=self._directory_fd)
        except FileExistsError:
            pass

    def _expire(self, now_s: float) -> None:
        """Delete windows whose claims cannot be fresh any more. Other workers may do the same at the same time."""
        oldest = int((now_s - FRESH_S) // _WINDOW_S) - 1
        for window in [w for w in self._windows if w < oldest]:
            del self._windows[window]
        for entry in _names(self._directory_fd):
            if entry.isdigit() and int(entry) < oldest:
                self._remove(entry)

    def _remove(self, entry: str) -> None:
        try:
            fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory_fd)
        except OSError:
            return
        try:
            for name in _names(fd):
                try:
                    os.unlink(name, dir_fd=fd)
                except FileNotFoundError:
                    pass
            os.rmdir(entry, dir_fd=self._directory_fd)
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)


def _names(fd: int) -> Iterable[str]:
    # listdir(fd) rewinds; a copy, because entries are deleted meanwhile.
    return list(os.listdir(fd))


def early_data_context(node_id: int, transport_limits: Iterable[int]) -> bytes:
    """Return the 4 bytes that a ticket must carry to open 0-RTT here: same node, no smaller limits.

    A client sends early data under the limits that it remembers, so they must not have shrunk (RFC 9000 section 7.4.1).
    """
    text = ",".join(str(value) for value in (node_id, *transport_limits))
    # The last bit distinguishes it from "not for 0-RTT".
    digest = bytearray(hashlib.sha256(text.encode("ascii")).digest()[:4])
    digest[3] |= 1
    return bytes(digest)


class EarlyData:
    """The decision about early data of one configuration revision."""

    def __init__(self, context: bytes, guard: ReplayGuard) -> None:
        self.context = context
        self._guard = guard

    def accepts(self, ticket: TicketState, obfuscated_age_ms: int, now_s: float) -> bool:
        """Whether this ticket may bring early data now. Counts as its one use."""
        if ticket.early_data != self.context:
            return False
        claimed_age_s = ((obfuscated_age_ms - ticket.age_add) & 0xFFFFFFFF) / 1000
        claimed_s = ticket.issued_s + claimed_age_s
        if abs(now_s - claimed_s) > FRESH_S:
            return False
        return self._guard.first_use(ticket.nonce, claimed_s, now_s)
