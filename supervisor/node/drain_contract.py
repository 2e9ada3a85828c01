"""The state of a drain: its phases, what proves each step, and how it ends. Pure data and its table (table.py).

    phase      what holds                                        what ends it
    routes     /readyz fails; the disable file is written        the file is there; failed when it cannot be written
    arrivals   clients are served as before, new ones counted    measured: fewer than `settle_below_per_s` for
                                                                 `settle_s`; or `announce_max_s`, which is logged
    quiesce    no new connection; GOAWAY twice, spread           all connections have got GOAWAY
    live       established connections finish                    none is left
    cutting    `max_wait_s` is over: workers close the rest      none is left

`max_wait_s` counts from the beginning, so that a runbook can add up. `Contract` is what a successor needs:
state.json and the quiesced file contain exactly its fields (supervisor/succession/saved_state.py). Arrivals are
measured in arrivals.py; draining.py reports events and acts on the phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

from supervisor.node.table import Table

#: Workers close connections at the deadline by themselves. One that does not report that within this is not awaited.
CUT_GRACE_S: Final = 15.0


class Phase(StrEnum):
    """The phase of a drain. The last five are ends."""

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
    """An event of a drain."""

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
CONTRACT_TABLE: Final[Table[Phase, Event]] = Table(
    {
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
)


@dataclass(frozen=True, slots=True)
class Terms:
    """The parameters of a drain, as the operator chose them."""

    reason: str = ""
    #: Arrivals are over when the rate stays below this for `settle_s`.
    settle_below_per_s: float = 1.0
    settle_s: float = 30.0
    #: Go on after this, settled or not. BGP converges within seconds to minutes.
    announce_max_s: float = 120.0
    #: From GOAWAY to the first connection until GOAWAY to the last.
    spread_s: float = 10.0
    #: From the beginning: after this, remaining connections are closed.
    max_wait_s: float = 900.0


@dataclass(slots=True)
class Contract:
    """One drain. Times are seconds of CLOCK_MONOTONIC."""

    terms: Terms
    since_s: float
    phase: Phase = Phase.ROUTES
    phase_since_s: float = 0.0
    #: What ended `arrivals`: a measurement, the clock, or an operator.
    proof: str = ""
    #: Why it failed.
    error: str = ""
    #: Requests that were cut off, and connections.
    lost: int = 0
    cut: int = 0
    #: The node was quiesced before, and stays so when the drain fails.
    was_quiesced: bool = False
    #: Workers have got their orders; a resume came after the end.
    ordered: bool = False
    released: bool = False
    #: The disable file exists, or may exist.
    file_there: bool = True

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.phase in _RUNNING

    @property
    def holds(self) -> bool:
        """Whether it is running, or the node is still out of service because of it."""
        return self.running or (self.phase in (Phase.DRAINED, Phase.STOPPED_HARD) and not self.released)

    @property
    def hard_stop_s(self) -> float:
        """When remaining connections are closed."""
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

    def can(self, event: Event) -> bool:
        """Whether *event* can happen in this phase."""
        return CONTRACT_TABLE.has(self.phase, event)

    def happen(self, event: Event, now_s: float) -> None:
        """Go to the phase after *event*. Raises `IllegalEvent`."""
        self.phase, self.phase_since_s = CONTRACT_TABLE.after(self.phase, event), now_s

    def settle(self, proof: str, now_s: float) -> None:
        """Arrivals are over."""
        self.happen(Event.SETTLED, now_s)
        self.proof = proof

    def tick(self, now_s: float, new_per_s: float | None = None) -> None:
        """Time has passed; *new_per_s* is the rate of arrivals, when it is known."""
        if self.due_s is None or now_s < self.due_s:
            return
        if self.phase is Phase.ARRIVALS:
            rate = "unknown" if new_per_s is None else f"{new_per_s:.1f}/s"
            self.proof = f"by the clock after {self.terms.announce_max_s:g} s, new={rate}: not measured to be over"
        self.happen(Event.TIME_UP, now_s)


def verdict(contract: Contract) -> tuple[str, int]:
    """Return how a drain ended, in one line, and the exit code. It must have ended."""
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
