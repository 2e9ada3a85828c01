"""An answer is a sequence of lines: what happens while the node works, and last how it ended. Pure.

`text` of a line is for people and may change; `exit_code`, which only the last line has, and the facts are for scripts.
Facts are one frozen dataclass for each kind of line. Add fields to them, never rename or remove one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from velocity_edge.status.document import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What scripts read of a line, beside its text and exit code."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of an answer."""

    text: str
    facts: Facts | None = None
    #: How the operation ended (velocity_edge/exits.py); None while it is under way.
    exit_code: int | None = None
    #: Of a line that repeats what the node logged meanwhile.
    level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Left(Facts):
    """How a quiesce ended: connections that are left, and requests that were cut off."""

    connections: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftTooLong(Left):
    """A quiesce whose time is up: also the oldest connections."""

    left: list[Connection]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuiesceProgress(Left):
    """How far a quiesce is."""

    running_requests: int
    eta_s: float | None
    decay_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainProgress(Facts):
    """How far a drain is: fields of the status document (`Drain`), and when."""

    #: Seconds since the drain began, and the date (UTC).
    t_s: float
    at: str
    phase: str
    new_per_s: float | None
    established: int
    in_handshake: int
    told: int
    running_requests: int
    decay_per_s: float | None
    eta_s: float | None
    lost: int
    cut: int
    proof: str
    #: The condition that ends this phase, in words.
    expect: str
    left: list[Connection]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted(Facts):
    """A restart has ended: requests that were cut off."""

    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded(Facts):
    """The revision that is in use."""

    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured(Facts):
    """The configuration that is in use, as workers have it (velocity_edge/config/model.py). It may contain secrets."""

    revision: int
    config: Any = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrading(Facts):
    """The versions before and after an upgrade."""

    before: str = field(metadata={"json": "from"})
    after: str = field(metadata={"json": "to"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted(Facts):
    """Connections that were closed, and requests that ran on them."""

    connections: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OnEpochs(Facts):
    """Connections that still use connection IDs of the epochs that they are asked to leave."""

    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported(Facts):
    """All keys, as velocity_edge/keys/document.py writes them. Secret."""

    document: Any = field(repr=False)
