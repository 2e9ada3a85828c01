"""Measurements during a drain: whether new connections still arrive, and how fast the established ones go away. Pure.

A timer does not prove that routers send no more clients: only a measurement does. `Arrivals.proof` returns the sentence
that says why arrivals are over. draining.py feeds both from the counters of the workers, every second. Nothing of this
outlives the supervisor: a successor measures anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from supervisor.node.drain_contract import Terms

#: A rate is an average over this window; shorter settle times get a shorter window.
_WINDOW_S: Final = 5.0
#: The decay is measured over this time: long enough to be smooth, short enough to notice the last slow connections.
_TREND_S: Final = 15.0


@dataclass(slots=True)
class Arrivals:
    """The rate of new connections."""

    #: New connections per second, when known; and since when the rate is below `settle_below_per_s`.
    new_per_s: float | None = None
    quiet_since_s: float | None = None
    _counted: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=100))

    def proof(self, terms: Terms, now_s: float, handshakes: int, *, accepts: bool) -> str:
        """Return why arrivals are over; empty: they are not.

        *handshakes*: completed since counters began. *accepts*: whether the node takes new connections at all.
        """
        if not accepts:
            return "the node accepts no new connections"
        if terms.settle_s == 0:
            return "not awaited: settle_s is 0"
        self._measure(terms, now_s, handshakes)
        if self.quiet_since_s is not None and now_s - self.quiet_since_s >= terms.settle_s:
            return f"measured: new<{terms.settle_below_per_s:g}/s for {terms.settle_s:g} s"
        return ""

    def _measure(self, terms: Terms, now_s: float, handshakes: int) -> None:
        counted = self._counted
        if counted and handshakes < counted[-1][1]:
            counted.clear()  # counters began anew: an upgrade
            self.quiet_since_s = None
        counted.append((now_s, handshakes))
        window_s = min(_WINDOW_S, terms.settle_s)
        # Compare with the newest count that is a whole window old.
        while len(counted) > 2 and counted[1][0] <= now_s - window_s:
            counted.popleft()
        then_s, before = counted[0]
        if now_s - then_s < min(window_s, 1.0):
            return
        self.new_per_s = (handshakes - before) / (now_s - then_s)
        if self.new_per_s >= terms.settle_below_per_s:
            self.quiet_since_s = None
        elif self.quiet_since_s is None:
            self.quiet_since_s = then_s


@dataclass(slots=True)
class Trend:
    """Samples of a number: how fast it falls, and when it will be zero."""

    _seen: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=200))

    def add(self, now_s: float, value: float) -> None:
        """Add a sample."""
        self._seen.append((now_s, value))

    def falls_per_s(self) -> float | None:
        """Return by how much it fell per second recently; None when that is not known yet."""
        if len(self._seen) < 2:
            return None
        now_s, value = self._seen[-1]
        then_s, before = next(seen for seen in self._seen if seen[0] >= now_s - _TREND_S)
        return (before - value) / (now_s - then_s) if now_s - then_s >= 1.0 else None

    def eta_s(self, goal: float = 0.0) -> float | None:
        """Return in how many seconds it reaches *goal* at the present rate; None when it does not fall."""
        falls = self.falls_per_s()
        if not falls or falls <= 0:
            return None
        return max(0.0, self._seen[-1][1] - goal) / falls
