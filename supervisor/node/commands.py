"""What a node wants done: the commands that `Node.handle` returns, in the order in which they are to be carried out.

The shell carries them out (supervisor/shell.py); what happens to a node is in happenings.py. Pure data.
"""

from __future__ import annotations

from dataclasses import dataclass

from velocity_edge.wire import messages


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker process for the sockets of `slot`. *patient*: another worker serves on its core meanwhile."""

    worker_id: int
    slot: int
    core: int
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class Equip:
    """Send `messages.Equip` with the descriptors of `slot`, and `messages.Keep` with those of `keep`."""

    worker_id: int
    slot: int
    keep: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Send `messages.Keep` with the descriptors of this slot, of a core without a worker."""

    worker_id: int
    slot: int


@dataclass(frozen=True, slots=True)
class GiveKeys:
    """Send `messages.UseKeys`: these epochs, sealing with that one."""

    worker_id: int
    epochs: tuple[int, ...]
    seal_with: int


@dataclass(frozen=True, slots=True)
class GiveConfig:
    """Send `messages.Configure` of this revision, with the opened roots."""

    worker_id: int
    revision: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Send an order without descriptors."""

    worker_id: int
    order: messages.Order


@dataclass(frozen=True, slots=True)
class Lend:
    """Steering: send packets for this worker id to this slot."""

    worker_id: int
    slot: int
    core: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Steering: this worker id is no longer in use."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Steering: send new connections to these workers."""

    worker_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UseCidKeys:
    """Steering: decode the connection IDs of these epochs."""

    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WriteDisableFile:
    """Write the file that tells health checkers to withdraw the routes, and report `DisableFileWritten`."""

    reason: str


@dataclass(frozen=True, slots=True)
class RemoveDisableFile:
    """Remove it, if it exists, and report `DisableFileRemoved`."""


@dataclass(frozen=True, slots=True)
class Activated:
    """The node uses this revision from now on: earlier and refused revisions can be released."""

    revision: int


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the log: what happened, to which worker, what follows."""

    text: str
    level: str = "info"
    worker_id: int | None = None


@dataclass(frozen=True, slots=True)
class Quit:
    """The node has stopped: exit with this code."""

    exit_code: int


Command = (
    Spawn
    | Kill
    | Equip
    | Keep
    | GiveKeys
    | GiveConfig
    | Tell
    | Lend
    | Forget
    | Accept
    | UseCidKeys
    | WriteDisableFile
    | RemoveDisableFile
    | Activated
    | Say
    | Quit
)
