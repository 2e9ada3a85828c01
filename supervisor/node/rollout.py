"""A rolling restart, core after core: bring up a newcomer, hand over, let the old one drain, next core.

The newcomer takes the core's free slot and only becomes the one that new connections go to when it is ready. When it
fails before that, the rollout is aborted and the old worker was never asked to leave. Pure; node.py feeds it and does
what its state says. One rollout at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Final


class RolloutState(StrEnum):
    """What the rollout is at."""

    BRINGING_UP = auto()
    HANDING_OVER = auto()
    DONE = auto()
    ABORTED = auto()


class RolloutEvent(StrEnum):
    """What can happen to it. `left`: the old worker of this core is gone; `left_last`: and it was the last core."""

    READY = auto()
    LEFT = auto()
    LEFT_LAST = auto()
    FAILED = auto()


_S, _E = RolloutState, RolloutEvent
ROLLOUT_TABLE: Final = {
    (_S.BRINGING_UP, _E.READY): _S.HANDING_OVER,
    (_S.BRINGING_UP, _E.FAILED): _S.ABORTED,
    (_S.HANDING_OVER, _E.LEFT): _S.BRINGING_UP,
    (_S.HANDING_OVER, _E.LEFT_LAST): _S.DONE,
    (_S.HANDING_OVER, _E.FAILED): _S.ABORTED,
}


@dataclass(slots=True)
class Rollout:
    """One rolling restart. `cores[0]` is the one at work."""

    cores: list[int]
    total: int = 0
    state: RolloutState = RolloutState.BRINGING_UP
    newcomer: int | None = None
    old: set[int] = field(default_factory=set)
    #: Connections that drains closed with a request in flight.
    lost: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        self.total = len(self.cores)

    @property
    def running(self) -> bool:
        """Whether there is still something to do."""
        return self.state in (RolloutState.BRINGING_UP, RolloutState.HANDING_OVER)

    @property
    def progress(self) -> str:
        """In words: what it is at."""
        if not self.running:
            return f"{self.state}{': ' + self.reason if self.reason else ''}"
        step = self.total - len(self.cores) + 1
        return f"core {self.cores[0]} ({step} of {self.total}): {self.state.replace('_', ' ')}"

    def ready(self, old: set[int]) -> None:
        """The newcomer serves; *old* are the workers of its core that leave now."""
        self._advance(RolloutEvent.READY)
        self.old = set(old)
        self._next_if_left()

    def gone(self, worker_id: int) -> None:
        """A worker exited, whichever."""
        if self.state is RolloutState.BRINGING_UP and worker_id == self.newcomer:
            self.abort(f"worker {worker_id} did not become ready")
        elif self.state is RolloutState.HANDING_OVER and worker_id in self.old:
            self.old.discard(worker_id)
            self._next_if_left()

    def abort(self, reason: str) -> None:
        """Give up; the cores that are not done keep their workers."""
        self.reason = reason
        self._advance(RolloutEvent.FAILED)

    def _next_if_left(self) -> None:
        if self.old:
            return
        self.cores.pop(0)
        self.newcomer = None
        self._advance(RolloutEvent.LEFT if self.cores else RolloutEvent.LEFT_LAST)

    def _advance(self, event: RolloutEvent) -> None:
        self.state = ROLLOUT_TABLE[self.state, event]
