"""What the supervisor knows of one worker process and of one core, and the lending of worker ids. Pure data.

The rules that change it are in node.py.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from supervisor.node.backoff import Backoff
from supervisor.node.lifecycle import WorkerEvent, WorkerState, next_worker_state
from velocity_edge.wire import messages as m
from velocity_edge.wire.cid import MAX_WORKER_ID

#: signal(7); the module of that name is for hands.
_SIGABRT: Final = 6
_SIGKILL: Final = 9


@dataclass(slots=True)
class Worker:
    """One process. Times are monotonic seconds."""

    worker_id: int
    core: int
    slot: int
    started_s: float
    #: When `state` has lasted too long; None: it may last.
    deadline_s: float | None
    state: WorkerState = WorkerState.STARTING
    hello: m.Hello | None = None
    heartbeat: m.Heartbeat | None = None
    heard_s: float = 0.0
    #: When it was last looked at for want of a report, what its progress was then, and when that was seen to change.
    looked_s: float = 0.0
    progress: int | None = None
    progressed_s: float = 0.0
    #: Its heartbeat is late, and it makes progress.
    busy: bool = False
    ready_s: float | None = None
    #: The revision that it serves.
    revision: int = 0
    #: The last revision that it was given to try, and the last one that it said it could use.
    given: int = 0
    prepared: int = 0
    #: It was told to activate, and when that is overdue.
    activation_due_s: float | None = None
    #: Its channel ended; its exit is overdue then.
    hung_up_due_s: float | None = None
    keys_in_use: m.KeysInUse | None = None
    #: CID config id -> connections that hold an id of it, said since it last changed what it seals with; None: not yet.
    by_config: dict[int, int] | None = None
    #: It leaves for good: nobody replaces it; and when what is left of it is closed.
    leaving: bool = False
    leave_by_s: float | None = None
    drained: bool = False
    #: What its drain cut off at the deadline: requests, and connections.
    lost: int = 0
    cut: int = 0
    #: Why it was condemned, for whoever reads about its end.
    reason: str = ""
    #: Slots of other cores that it was given to keep (keepers.py).
    keeps: set[int] = field(default_factory=set)
    #: The roster that it was sent last.
    roster: m.Roster | None = None

    def advance(self, event: WorkerEvent) -> None:
        """Change state by the table."""
        self.state = next_worker_state(self.state, event)

    @property
    def serving(self) -> bool:
        """Whether its loop should be running: it sends heartbeats."""
        return self.state in (WorkerState.READY, WorkerState.DRAINING)

    @property
    def alive_s(self) -> float:
        """When there was the last sign that it is not hung."""
        return max(self.heard_s, self.progressed_s)

    @property
    def running_requests(self) -> int:
        """What it would take with it if it died now, as far as it has said so: it drains, and counts what runs."""
        left = self.heartbeat.left if self.heartbeat else None
        return left.running if left else 0

    @property
    def ending(self) -> bool:
        """Whether it need not answer any more."""
        return self.state in (WorkerState.STOPPING, WorkerState.KILLED)

    @property
    def doomed(self) -> bool:
        """Whether it is on its way out."""
        return self.leaving or self.ending


@dataclass(slots=True)
class Core:
    """A place for one current worker, with two slots: `core` and `core + cores`."""

    index: int
    backoff: Backoff = field(default_factory=Backoff)
    #: When the next worker is started here, and in which slot.
    respawn_s: float | None = None
    respawn_slot: int = 0
    #: Failures in a row of workers that never became ready.
    start_failures: int = 0
    restarts: int = 0


@dataclass(slots=True)
class WorkerIds:
    """Lends worker ids in turn, so that one comes back as late as possible."""

    next_id: int = 1
    last: int = MAX_WORKER_ID

    def lend(self, taken: Container[int]) -> int:
        """Return an id that is not in *taken*."""
        for _ in range(self.last):
            worker_id, self.next_id = self.next_id, self.next_id % self.last + 1
            if worker_id not in taken:
                return worker_id
        raise RuntimeError(f"all {self.last} worker ids are taken")


def describe_exit(status: int | None, *, out_of_memory: bool = False) -> str:
    """Say how a process ended: exit code, or minus the signal."""
    if status == m.EXIT_OUT_OF_MEMORY:
        return f"exited with {status}: it got no more memory"
    if out_of_memory and status in (-_SIGKILL, None):
        # An adopted worker's status is its parent's to know.
        return "was ended by the kernel, it seems: a process has just been chosen because memory ran out"
    if status == -_SIGABRT:
        return "aborted; what it wrote before says why"
    if status is None:
        return "ended while nobody was its parent"
    return f"was ended by signal {-status}" if status < 0 else f"exited with {status}"
