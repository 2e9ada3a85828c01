"""What the supervisor knows of one worker process, how its end is described, and the lending of worker ids. Pure data.

The rules that change it are in reports.py, deadlines.py, orders.py and exits.py; cores are in core.py.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from supervisor.node.lifecycle import WORKER_TABLE, WorkerEvent, WorkerState
from velocity_edge.wire import messages
from velocity_edge.wire.cid import MAX_WORKER_ID

#: signal(7); the module `signal` is not imported by decisions.
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
    hello: messages.Hello | None = None
    heartbeat: messages.Heartbeat | None = None
    heard_s: float = 0.0
    #: The last look at its progress (deadlines.py): when, the value then, and when that was seen to change.
    looked_s: float = 0.0
    progress: int | None = None
    progressed_s: float = 0.0
    #: Its heartbeat is late, and it makes progress.
    busy: bool = False
    ready_s: float | None = None
    #: The revision that it serves.
    revision: int = 0
    #: The last revision that it was given, and the last one that it reported as prepared.
    given: int = 0
    prepared: int = 0
    #: It was told to activate, and when that is overdue.
    activation_due_s: float | None = None
    #: Its channel ended; its exit is overdue then.
    hung_up_due_s: float | None = None
    keys_in_use: messages.KeysInUse | None = None
    #: CID config id -> connections that hold an id of it, counted since its sealing epoch last changed; None: not yet.
    by_config: dict[int, int] | None = None
    #: It leaves for good and is not replaced; and when its remaining connections are closed.
    leaving: bool = False
    leave_by_s: float | None = None
    drained: bool = False
    #: What its drain cut off at the deadline: requests, and connections.
    lost: int = 0
    cut: int = 0
    #: Why it was condemned, for the log line of its exit.
    reason: str = ""
    #: Slots of other cores that it was given to keep (core.py).
    keeps: set[int] = field(default_factory=set)
    #: The roster that it was sent last.
    roster: messages.Roster | None = None

    def advance(self, event: WorkerEvent) -> None:
        """Change its state by the table. Raises `IllegalEvent`."""
        self.state = WORKER_TABLE.after(self.state, event)

    @property
    def serving(self) -> bool:
        """Whether its loop should be running: it sends heartbeats."""
        return self.state in (WorkerState.READY, WorkerState.DRAINING)

    @property
    def alive_s(self) -> float:
        """When the last sign came that it does not hang."""
        return max(self.heard_s, self.progressed_s)

    @property
    def running_requests(self) -> int:
        """Requests that would be lost if it died now, by its last heartbeat; only a worker that drains counts them."""
        left = self.heartbeat.left if self.heartbeat else None
        return left.running if left else 0

    @property
    def ending(self) -> bool:
        """Whether it is stopping or killed: no answer is expected."""
        return self.state in (WorkerState.STOPPING, WorkerState.KILLED)

    @property
    def doomed(self) -> bool:
        """Whether it is on its way out."""
        return self.leaving or self.ending


@dataclass(slots=True)
class WorkerIds:
    """Lends worker ids in turn, so that an id is used again as late as possible."""

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
    """Describe how a process ended. *status*: its exit code, or minus the signal."""
    if status == messages.EXIT_OUT_OF_MEMORY:
        return f"exited with {status}: it could not allocate memory"
    if out_of_memory and status in (-_SIGKILL, None):
        # None: the exit status of an adopted worker is known to its parent only.
        return "was killed, probably by the kernel: it has just killed a process because memory ran out"
    if status == -_SIGABRT:
        return "aborted; its last lines on stderr say why"
    if status is None:
        return "ended; its exit status is not known"
    return f"was ended by signal {-status}" if status < 0 else f"exited with {status}"
