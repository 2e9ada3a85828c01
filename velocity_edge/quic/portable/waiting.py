"""How long a connection waits for its peer: for a request's header section or its end, and for its answers to be taken.

Two clocks run beside QUIC's own timers:

    request_timeout_s   a header section that does not complete; the rest of a request whose answer has arrived
    stall_timeout_s     a peer that acknowledges nothing of its answers; until then it gets PINGs

What follows when one of them has run out is edge.py's. No clock here: times are passed in.
"""

from __future__ import annotations

from enum import Enum

from velocity_edge.quic.limits import Limits


class Answers(Enum):
    """What to do about a peer that has answers to take."""

    NOTHING = "nothing is due"
    PING = "send a PING"
    STALLED = "it took nothing for too long"


class Waiting:
    """What one connection waits for. Times are in nanoseconds."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        #: Streams that wait for their peer, oldest first, and since when.
        self._streams: dict[int, int] = {}
        #: What the peer has taken of its answers (None: nothing waits for it), since when, and when it gets a PING.
        self._taken: int | None = None
        self._taken_ns = self._ping_ns = 0

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._streams

    def begin(self, stream_id: int, now_ns: int) -> None:
        """Wait for the peer of a stream, from now on unless it is waited for already."""
        self._streams.setdefault(stream_id, now_ns)

    def end(self, stream_id: int) -> None:
        """Wait no more for it."""
        self._streams.pop(stream_id, None)

    def overdue(self, now_ns: int) -> int | None:
        """Return the stream that has waited longest, when that is too long."""
        if not self._streams:
            return None
        stream_id, since_ns = next(iter(self._streams.items()))
        return stream_id if now_ns >= since_ns + int(self.limits.request_timeout_s * 1e9) else None

    def note_taken(self, taken: int | None, idle_timeout_s: float, now_ns: int) -> None:
        """Note how much of the answers the peer has taken; None: nothing waits for it."""
        if taken != self._taken:
            if self._taken is None:
                self._ping_ns = now_ns + _ping_interval_ns(idle_timeout_s)
            self._taken, self._taken_ns = taken, now_ns

    def answers(self, idle_timeout_s: float, now_ns: int) -> Answers:
        """Return what is due, once: a sender without credit keeps the connection alive (RFC 9000 section 4.1)."""
        if self._taken is None:
            return Answers.NOTHING
        if now_ns >= self._taken_ns + int(self.limits.stall_timeout_s * 1e9):
            self._taken = None
            return Answers.STALLED
        if now_ns >= self._ping_ns:
            self._ping_ns = now_ns + _ping_interval_ns(idle_timeout_s)
            return Answers.PING
        return Answers.NOTHING

    def deadlines_ns(self) -> list[int]:
        """Return when `overdue` and `answers` may have something."""
        deadlines = []
        if self._streams:
            since_ns = next(iter(self._streams.values()))
            deadlines.append(since_ns + int(self.limits.request_timeout_s * 1e9))
        if self._taken is not None:
            deadlines += [self._ping_ns, self._taken_ns + int(self.limits.stall_timeout_s * 1e9)]
        return deadlines


def _ping_interval_ns(idle_timeout_s: float) -> int:
    return int(idle_timeout_s / 3 * 1e9)
