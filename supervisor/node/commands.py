"""What a node wants done: the commands that `Node.handle` returns, in the order in which they are to be carried out.

The shell carries them out (supervisor/shell.py); what happens to a node is in happenings.py. Pure data.
"""

from __future__ import annotations

from dataclasses import dataclass

from velocity_edge.wire import messages as m


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker process. It finds its sockets in `slot`. *patient*: somebody serves on its core meanwhile."""

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
    """Send `messages.Keep` with the descriptors of this slot, of a core that nobody serves."""

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
    """Send an order that needs nothing but its words."""

    worker_id: int
    order: m.Order


@dataclass(frozen=True, slots=True)
class Lend:
    """Steering: packets for this worker id go to this slot."""

    worker_id: int
    slot: int
    core: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Steering: nobody has this worker id."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Steering: new connections go to these workers."""

    worker_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UseCidKeys:
    """Steering: decode the connection IDs of these epochs."""

    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WriteDisableFile:
    """Write the file that tells health checkers to withdraw the routes, and say `DisableFileWritten`."""

    reason: str


@dataclass(frozen=True, slots=True)
class RemoveDisableFile:
    """Remove it, if it is there, and say `DisableFileRemoved`."""


@dataclass(frozen=True, slots=True)
class Activated:
    """The node uses this revision now: earlier ones and refused ones may be forgotten."""

    revision: int


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the log: what happened, to whom, what we do now."""

    text: str
    level: str = "info"
    worker_id: int | None = None


@dataclass(frozen=True, slots=True)
class Quit:
    """Everything is done: exit with this code."""

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
