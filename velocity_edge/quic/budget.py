"""A limit per second: resets, version negotiations and glitches of the portable engine, log lines of workers.

A window of one second, not a token bucket: the limits are per second, a burst at the border of two windows costs at
most twice the limit, and the state is two integers.

Short because it is one class that several rooms share.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class PerSecond:
    """Counts the events of the current second and tells when they are more than `limit`."""

    limit: int
    _window_began_ns: int = field(default=-_SECOND_NS, init=False)
    _used: int = field(default=0, init=False)

    def spent(self, now_ns: int) -> bool:
        """Whether the next `take` would be over the limit; counts nothing."""
        return now_ns - self._window_began_ns < _SECOND_NS and self._used >= self.limit

    def take(self, now_ns: int) -> bool:
        """Count one. False: over the limit of this second."""
        if now_ns - self._window_began_ns >= _SECOND_NS:
            self._window_began_ns, self._used = now_ns, 0
        self._used += 1
        return self._used <= self.limit
