"""What happens to a node: the happenings that `Node.handle` takes. What the node wants done is in commands.py.

A happening that an operator causes raises `CannotDo` out of `Node.handle` when the node refuses: nothing has changed.
All times are seconds of CLOCK_MONOTONIC. Pure data: what the world does first, then what an operator asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto

from supervisor.node.drain_contract import Contract, Terms
from velocity_edge.wire import messages


@dataclass(frozen=True, slots=True)
class Adopted:
    """A worker of an earlier supervisor that is still alive."""

    worker_id: int
    core: int
    slot: int
    hello: messages.Hello
    #: It was told to leave for good (rollout, scale down); and when its remaining connections are closed.
    leaving: bool = False
    leave_by_s: float | None = None


@dataclass(frozen=True, slots=True)
class Departed:
    """A worker id whose process has ended, while packets for it may still come."""

    core: int
    slot: int
    until_s: float


@dataclass(frozen=True, slots=True)
class Rolling:
    """A rolling restart that an earlier supervisor began: the remaining cores, and the new worker of the first one."""

    cores: tuple[int, ...]
    newcomer: int | None


@dataclass(frozen=True, slots=True)
class Started:
    """The supervisor has started, with sockets and steering; *adopted* workers come oldest first."""

    adopted: tuple[Adopted, ...] = ()
    departed: dict[int, Departed] = field(default_factory=dict)
    #: Departed workers that new connections were steered to: packets may wait in their slots.
    accepting: tuple[int, ...] = ()
    #: An earlier supervisor quiesced the node: it stays quiesced.
    quiesced: Quiesce | None = None
    #: The drain that was running then, or the last one.
    contract: Contract | None = None
    #: Adoptions before this one.
    adoptions: int = 0
    #: An earlier supervisor was in the middle of a rolling restart, which continues.
    rolling: Rolling | None = None
    #: Worker ids that steering knows already.
    lent: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reported:
    """A worker sent a report."""

    worker_id: int
    report: messages.Report


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker's process has ended. `status`: exit code, or minus the signal; None for adopted workers."""

    worker_id: int
    status: int | None
    #: The kernel has just killed a process because memory ran out; it does not say which.
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class HungUp:
    """A worker's channel ended. In most cases it has died and `Exited` follows."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class Broke:
    """A worker sent an invalid message, or does not read its channel."""

    worker_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed: `Node.next_deadline_s` is reached.

    *progress*: worker id -> what its slab counts as progress (counters.GAUGES), without workers of earlier versions,
    which do not count it.
    """

    progress: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of all workers were read: handshakes completed so far. Every second during a drain."""

    handshakes: int


@dataclass(frozen=True, slots=True)
class DisableFileWritten:
    """`WriteDisableFile` was carried out; or not, because of `error`."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class DisableFileRemoved:
    """`RemoveDisableFile` was carried out."""


class QuiesceMode(StrEnum):
    """How clients of a node are asked to leave."""

    #: Not ready at once; after the announced delay no new connection, and GOAWAY spread over a window.
    GRACEFUL = auto()
    #: No new connection, and GOAWAY to all connections, now.
    IMMEDIATE = auto()
    #: Not ready, GOAWAY; new connections are still taken.
    DISCOURAGE = auto()


@dataclass(frozen=True, slots=True)
class Quiesce:
    """Have clients leave, and stay up. `deadline_s`: after this, remaining connections are closed."""

    mode: QuiesceMode = QuiesceMode.GRACEFUL
    reason: str = ""
    announce_s: float = 0.0
    spread_s: float = 10.0
    deadline_s: float = 86_400.0
    #: When it was requested; a successor continues from there.
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class DrainNode:
    """Take the node out of service by the contract (drain_contract.py)."""

    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True)
class Resume:
    """End a `Quiesce` or a `DrainNode`: serve again."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart workers one after the other: of these cores, or of all."""

    cores: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reload:
    """Use this revision, if every worker can. The shell has the configuration."""

    revision: int


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """A revision was not given to workers: its files cannot be used."""

    revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class AbortOld:
    """Close the connections that are older than this."""

    age_s: float


@dataclass(frozen=True, slots=True)
class Scale:
    """Have this many workers."""

    workers: int


@dataclass(frozen=True, slots=True)
class UseEpochs:
    """Use this key table, newest epoch first: all workers accept it, then `seal_with` seals.

    `closed`: epochs that no longer open tickets; they are in the table for their connection IDs.
    """

    epochs: tuple[int, ...]
    seal_with: int
    closed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MoveFrom:
    """Move connections off the connection IDs of these epochs."""

    epochs: tuple[int, ...]
    spread_s: float = 10.0


@dataclass(frozen=True, slots=True)
class StopNode:
    """Stop: drain first, or (fast) close all connections now."""

    fast: bool = False


Happening = (
    Started
    | Reported
    | Exited
    | HungUp
    | Broke
    | Ticked
    | Counted
    | DisableFileWritten
    | DisableFileRemoved
    | Quiesce
    | DrainNode
    | Resume
    | Restart
    | Reload
    | ReloadFailed
    | AbortOld
    | Scale
    | UseEpochs
    | MoveFrom
    | StopNode
)
