"""The contract of a drain: in which order a node is taken out, what proves each step, and how it ends. Pure.

    phase      what holds                                        what ends it
    routes     /readyz fails; the disable file is written        the file is there; failed when it cannot be
    arrivals   clients are served as ever, new ones are counted  measured: fewer than `settle_below_per_s` for
                                                                 `settle_s`; or `announce_max_s`, and it is said
    quiesce    no new connection; GOAWAY twice, spread           everybody has been told
    live       who is left finishes                              nobody is left
    cutting    `max_wait_s` is over: workers close the rest      nobody is left

A timer is no proof that routers send nobody any more: only the measurement is. `max_wait_s` counts from the first
moment, so that a runbook can add up. drains.py feeds this and does what the phase says; the node's life is not here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Final

#: A rate is what came within so long; shorter settle times get a shorter window.
_WINDOW_S: Final = 5.0
#: Decay is judged by so much of the past: long enough to be smooth, short enough to notice the last slow ones.
_TREND_S: Final = 15.0
#: Workers close at the deadline by themselves. One that does not say so within this is not waited for.
CUT_GRACE_S: Final = 15.0


class Phase(StrEnum):
    """Where the drain is. The last six are ends."""

    ROUTES = auto()
    ARRIVALS = auto()
    QUIESCE = auto()
    LIVE = auto()
    CUTTING = auto()
    DRAINED = auto()
    STOPPED_HARD = auto()
    RESUMED = auto()
    NODE_STOPPED = auto()
    FAILED = auto()


class Event(StrEnum):
    """What can happen to it."""

    WRITTEN = auto()
    NOT_WRITTEN = auto()
    SETTLED = auto()
    TIME_UP = auto()
    TOLD = auto()
    EMPTY = auto()
    RESUME = auto()
    STOP = auto()


_P, _E = Phase, Event
_RUNNING: Final = (_P.ROUTES, _P.ARRIVALS, _P.QUIESCE, _P.LIVE, _P.CUTTING)
CONTRACT_TABLE: Final = {
    (_P.ROUTES, _E.WRITTEN): _P.ARRIVALS,
    (_P.ROUTES, _E.NOT_WRITTEN): _P.FAILED,
    (_P.ARRIVALS, _E.SETTLED): _P.QUIESCE,
    (_P.ARRIVALS, _E.TIME_UP): _P.QUIESCE,
    (_P.QUIESCE, _E.TOLD): _P.LIVE,
    (_P.QUIESCE, _E.EMPTY): _P.DRAINED,
    (_P.QUIESCE, _E.TIME_UP): _P.CUTTING,
    (_P.LIVE, _E.EMPTY): _P.DRAINED,
    (_P.LIVE, _E.TIME_UP): _P.CUTTING,
    (_P.CUTTING, _E.EMPTY): _P.STOPPED_HARD,
    (_P.CUTTING, _E.TIME_UP): _P.STOPPED_HARD,
    **{(phase, _E.RESUME): _P.RESUMED for phase in _RUNNING},
    **{(phase, _E.STOP): _P.NODE_STOPPED for phase in _RUNNING},
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator agreed to."""

    reason: str = ""
    #: So few new connections per second, for so long, are none.
    settle_below_per_s: float = 1.0
    settle_s: float = 30.0
    #: Go on after this, whatever comes. BGP converges within seconds to minutes.
    announce_max_s: float = 120.0
    #: From GOAWAY to the first connection until GOAWAY to the last.
    spread_s: float = 10.0
    #: From the first moment: after this, what is left is closed.
    max_wait_s: float = 900.0


@dataclass(slots=True)
class Trend:
    """A number that is looked at from time to time: how fast does it fall, and when is it gone?"""

    _seen: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=200))

    def add(self, now_s: float, value: float) -> None:
        """Take in what it is now."""
        self._seen.append((now_s, value))

    def falls_per_s(self) -> float | None:
        """Return by how much it fell per second lately; None when that is not known yet."""
        if len(self._seen) < 2:
            return None
        now_s, value = self._seen[-1]
        then_s, before = next(seen for seen in self._seen if seen[0] >= now_s - _TREND_S)
        return (before - value) / (now_s - then_s) if now_s - then_s >= 1.0 else None

    def eta_s(self, goal: float = 0.0) -> float | None:
        """Return when it will have fallen to *goal*, if it goes on like this; None when it does not fall."""
        falls = self.falls_per_s()
        if not falls or falls <= 0:
            return None
        return max(0.0, self._seen[-1][1] - goal) / falls


@dataclass(slots=True)
class Contract:
    """One drain. Times are monotonic seconds."""

    terms: Terms
    since_s: float
    phase: Phase = Phase.ROUTES
    phase_since_s: float = 0.0
    #: What ended `arrivals`, in words: a measurement, or the clock.
    proof: str = ""
    #: Why it failed.
    error: str = ""
    #: Requests that were cut off, and connections.
    lost: int = 0
    cut: int = 0
    #: New connections per second, as far as it is known; and since when they are few.
    new_per_s: float | None = None
    quiet_since_s: float | None = None
    left: Trend = field(default_factory=Trend)
    #: The node had been quiesced before, and stays so when this fails.
    was_quiesced: bool = False
    #: Workers have had their order; the log has this phase; a resume came after the end.
    ordered: bool = False
    said: Phase = Phase.ROUTES
    released: bool = False
    #: The disable file is there, or may be.
    file_there: bool = True
    _counted: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=100))

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.phase in _RUNNING

    @property
    def holds(self) -> bool:
        """Whether it is under way, or the node is still out because of it."""
        return self.running or (self.phase in (Phase.DRAINED, Phase.STOPPED_HARD) and not self.released)

    @property
    def hard_stop_s(self) -> float:
        """When what is left is closed."""
        return self.since_s + self.terms.max_wait_s

    @property
    def due_s(self) -> float | None:
        """When `tick` has something to do."""
        match self.phase:
            case Phase.ARRIVALS:
                return self.since_s + self.terms.announce_max_s
            case Phase.QUIESCE | Phase.LIVE:
                return self.hard_stop_s
            case Phase.CUTTING:
                return self.phase_since_s + CUT_GRACE_S
            case _:
                return None

    def happen(self, event: Event, now_s: float) -> None:
        """Go where the table says; an event that means nothing in this phase changes nothing."""
        after = CONTRACT_TABLE.get((self.phase, event))
        if after is not None:
            self.phase, self.phase_since_s = after, now_s

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        due_s = self.due_s
        if due_s is None or now_s < due_s:
            return
        if self.phase is Phase.ARRIVALS:
            rate = "unknown" if self.new_per_s is None else f"{self.new_per_s:.1f}/s"
            self.proof = f"by the clock after {self.terms.announce_max_s:g} s, new={rate}: not measured to be over"
        self.happen(Event.TIME_UP, now_s)

    def count(self, now_s: float, handshakes: int, *, accepts: bool) -> None:
        """Take in how many handshakes were completed ever; *accepts*: whether anybody is let in at all."""
        if self.phase is not Phase.ARRIVALS:
            return
        if not accepts:
            self._settle(now_s, "nobody is let in already")
        elif self.terms.settle_s == 0:
            self._settle(now_s, "not waited for, as asked")
        else:
            self._measure(now_s, handshakes)
            if self.quiet_since_s is not None and now_s - self.quiet_since_s >= self.terms.settle_s:
                terms = self.terms
                self._settle(now_s, f"measured: new<{terms.settle_below_per_s:g}/s for {terms.settle_s:g} s")

    def hurry(self, now_s: float) -> None:
        """An operator does not want to wait for arrivals to end."""
        if self.phase is Phase.ARRIVALS:
            self._settle(now_s, "not waited for: quiesced by hand")

    def _settle(self, now_s: float, proof: str) -> None:
        self.proof = proof
        self.happen(Event.SETTLED, now_s)

    def _measure(self, now_s: float, handshakes: int) -> None:
        counted = self._counted
        if counted and handshakes < counted[-1][1]:
            counted.clear()  # counters began anew: an upgrade
            self.quiet_since_s = None
        counted.append((now_s, handshakes))
        window_s = min(_WINDOW_S, self.terms.settle_s)
        # The newest look that is a whole window away.
        while len(counted) > 2 and counted[1][0] <= now_s - window_s:
            counted.popleft()
        then_s, before = counted[0]
        if now_s - then_s < min(window_s, 1.0):
            return
        self.new_per_s = (handshakes - before) / (now_s - then_s)
        if self.new_per_s >= self.terms.settle_below_per_s:
            self.quiet_since_s = None
        elif self.quiet_since_s is None:
            self.quiet_since_s = then_s


def verdict(contract: Contract) -> tuple[str, int]:
    """Return how a drain ended, in a line for people, and the exit code. It must have ended."""
    took_s = contract.phase_since_s - contract.since_s
    closed = f"{contract.cut} connections" if contract.cut != 1 else "1 connection"
    match contract.phase:
        case Phase.DRAINED if contract.lost == 0:
            return "VERDICT: drained, lost=0", 0
        case Phase.DRAINED:
            return f"VERDICT: drained, lost={contract.lost}: a worker died or was stopped meanwhile", 1
        case Phase.STOPPED_HARD if contract.lost == 0:
            return f"VERDICT: drained, lost=0; the hard stop after {took_s:.0f} s closed {closed} without a request", 0
        case Phase.STOPPED_HARD:
            return (
                f"VERDICT: stopped hard after {took_s:.0f} s, lost={contract.lost}: requests on {closed} were cut off",
                4,
            )
        case Phase.RESUMED:
            return f"VERDICT: resumed after {took_s:.0f} s, lost={contract.lost}", 5
        case Phase.NODE_STOPPED:
            return f"VERDICT: the node was stopped after {took_s:.0f} s, lost={contract.lost} so far", 5
        case _:
            return f"VERDICT: cannot drain: {contract.error}", 1
