"""What happens to a node: the happenings that `Node.handle` takes. What the node wants done is in commands.py.

A happening that an operator causes raises `CannotDo` out of `Node.handle` when the node refuses: nothing has changed.
All times are seconds of CLOCK_MONOTONIC. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto

from supervisor.node.drain_contract import Contract, Terms
from velocity_edge.wire import messages as m

# --- happenings: the world ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adopted:
    """A worker that served through the death of an earlier supervisor."""

    worker_id: int
    core: int
    slot: int
    hello: m.Hello
    #: It was asked to leave for good (rollout, scale down), and when what is left of it is closed.
    leaving: bool = False
    leave_by_s: float | None = None


@dataclass(frozen=True, slots=True)
class Departed:
    """A worker id whose process is gone, while packets for it may still come."""

    core: int
    slot: int
    until_s: float


@dataclass(frozen=True, slots=True)
class Rolling:
    """A rolling restart that an earlier supervisor had begun: the cores that are left, and who came up on the first."""

    cores: tuple[int, ...]
    newcomer: int | None


@dataclass(frozen=True, slots=True)
class Started:
    """The supervisor is up: sockets and steering are there; so are the workers that it adopted, oldest first."""

    adopted: tuple[Adopted, ...] = ()
    departed: dict[int, Departed] = field(default_factory=dict)
    #: Departed ones that new connections were led to: packets may wait in their slots.
    accepting: tuple[int, ...] = ()
    #: An earlier supervisor had quiesced the node: it stays so.
    quiesced: Quiesce | None = None
    #: The drain that was under way then, or the last one.
    contract: Contract | None = None
    #: Adoptions before this one.
    adoptions: int = 0
    #: An earlier supervisor was in the middle of a rolling restart: it goes on.
    rolling: Rolling | None = None
    #: Worker ids that steering leads somewhere already.
    lent: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reported:
    """A worker said something."""

    worker_id: int
    report: m.Report


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker's process is gone. `status`: exit code, or minus the signal; None where only a parent would know."""

    worker_id: int
    status: int | None
    #: The kernel has just ended somebody for want of memory; if this one was, nobody says.
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class HungUp:
    """A worker's channel ended. Mostly it has died and `Exited` follows."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class Broke:
    """A worker sent what is no message, or does not read its channel."""

    worker_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed: `Node.next_deadline_s` is reached.

    *progress*: worker id -> what its slab counts as progress (counters.GAUGES); workers of earlier versions are not in
    it, as they have no such count.
    """

    progress: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counted:
    """The shell looked at the counters of all workers: handshakes completed ever. Every second during a drain."""

    handshakes: int


@dataclass(frozen=True, slots=True)
class DisableFileWritten:
    """`WriteDisableFile` was carried out; `error`: why it could not be."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class DisableFileRemoved:
    """`RemoveDisableFile` was carried out."""


# --- happenings: an operator ------------------------------------------------------------------------------------------


class QuiesceMode(StrEnum):
    """How a node takes leave of its clients."""

    #: Not ready at once; after the announced delay no new connection, and GOAWAY spread over a window.
    GRACEFUL = auto()
    #: No new connection and GOAWAY to everybody, now.
    IMMEDIATE = auto()
    #: Not ready, GOAWAY; new connections are still taken.
    DISCOURAGE = auto()


@dataclass(frozen=True, slots=True)
class Quiesce:
    """Take leave of clients, and stay up. `deadline_s`: after this, what is left is closed."""

    mode: QuiesceMode = QuiesceMode.GRACEFUL
    reason: str = ""
    announce_s: float = 0.0
    spread_s: float = 10.0
    deadline_s: float = 86_400.0
    #: When it was asked for; a node that is adopted goes on from there.
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class DrainNode:
    """Take the node out by the contract (contract.py)."""

    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True)
class Resume:
    """The opposite of `Quiesce` and of `DrainNode`."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart the workers one after the other: of these cores, or of all."""

    cores: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reload:
    """Use this revision, if every worker can. The shell has the configuration."""

    revision: int


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """A revision did not get as far as the workers: its files cannot be used."""

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
    """Use this key table, newest first. Accepted everywhere first, then `seal_with` seals.

    `closed`: epochs that open nothing any more; they are in the table for their connection IDs.
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
    """Stop: drain first, or (fast) close what is left now."""

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
