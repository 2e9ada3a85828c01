"""The state of a rolling restart: core after core, start a new worker, hand over, let the old worker drain.

The new worker takes the free slot of the core and gets new connections only when it is ready. When it fails before
that, the rollout is aborted and the old worker has not been asked to leave. One rollout at a time. Pure data and its
table (table.py); rolling.py reports events to it and acts on its state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Final

from supervisor.node.table import Table


class RolloutState(StrEnum):
    """The step of a rollout; the last two are ends."""

    BRINGING_UP = auto()
    HANDING_OVER = auto()
    DONE = auto()
    ABORTED = auto()


class RolloutEvent(StrEnum):
    """An event of a rollout. `left`: the old worker of this core has exited; `left_last`: of the last core."""

    READY = auto()
    LEFT = auto()
    LEFT_LAST = auto()
    FAILED = auto()


_S, _E = RolloutState, RolloutEvent
ROLLOUT_TABLE: Final[Table[RolloutState, RolloutEvent]] = Table(
    {
        (_S.BRINGING_UP, _E.READY): _S.HANDING_OVER,
        (_S.BRINGING_UP, _E.FAILED): _S.ABORTED,
        (_S.HANDING_OVER, _E.LEFT): _S.BRINGING_UP,
        (_S.HANDING_OVER, _E.LEFT_LAST): _S.DONE,
        (_S.HANDING_OVER, _E.FAILED): _S.ABORTED,
    }
)


@dataclass(slots=True)
class Rollout:
    """One rolling restart. `cores[0]` is the core that is restarted now."""

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
        """Whether it has not ended yet."""
        return self.state in (RolloutState.BRINGING_UP, RolloutState.HANDING_OVER)

    @property
    def progress(self) -> str:
        """The step in words."""
        if not self.running:
            return f"{self.state}{': ' + self.reason if self.reason else ''}"
        step = self.total - len(self.cores) + 1
        return f"core {self.cores[0]} ({step} of {self.total}): {self.state.replace('_', ' ')}"

    def ready(self, old: set[int]) -> None:
        """The new worker serves; *old* are the workers of its core that leave now."""
        self._advance(RolloutEvent.READY)
        self.old = set(old)
        self._next_if_left()

    def gone(self, worker_id: int) -> None:
        """A worker exited, of this rollout or not."""
        if self.state is RolloutState.BRINGING_UP and worker_id == self.newcomer:
            self.abort(f"worker {worker_id} did not become ready")
        elif self.state is RolloutState.HANDING_OVER and worker_id in self.old:
            self.old.discard(worker_id)
            self._next_if_left()

    def abort(self, reason: str) -> None:
        """End the rollout; the remaining cores keep their workers."""
        self.reason = reason
        self._advance(RolloutEvent.FAILED)

    def _next_if_left(self) -> None:
        if self.old:
            return
        self.cores.pop(0)
        self.newcomer = None
        self._advance(RolloutEvent.LEFT if self.cores else RolloutEvent.LEFT_LAST)

    def _advance(self, event: RolloutEvent) -> None:
        self.state = ROLLOUT_TABLE.after(self.state, event)
