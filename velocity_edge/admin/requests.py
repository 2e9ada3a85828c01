"""The requests: one frozen dataclass for each verb, with the fields of its JSON body. Pure.

An optional number that is None is left out of the body; the node then uses its own default. What a field must hold is
its type: json_form.py refuses everything else. Numbers are 0 or more. Add fields, never rename or remove them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Any

from velocity_edge.errors import VelocityError
from velocity_edge.text.log_levels import parse_levels


class BadRequest(VelocityError):
    """A request that cannot be understood: the text names the field and what is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What every request has: the reason, for the log and for other operators."""

    reason: str = ""

    def check(self) -> None:
        """Raise `BadRequest` when the fields contradict each other."""


class Mode(StrEnum):
    """How a node quiesces."""

    #: No new connections after the announced delay; GOAWAY to the others, spread over time.
    GRACEFUL = auto()
    #: No new connections, GOAWAY to all, at once.
    IMMEDIATE = auto()
    #: GOAWAY, but new connections are accepted.
    DISCOURAGE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiesce(Request):
    """Stop serving new clients and ask the others to leave, but keep running; with `wait`, until few are left."""

    mode: Mode = Mode.GRACEFUL
    announce_s: float | None = None
    spread_s: float | None = None
    deadline_s: float | None = None
    wait: bool = False
    below: float | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Request):
    """Take the node out of service; with `attach`, only follow a drain that is under way."""

    settle_s: float | None = None
    settle_below_per_s: float | None = None
    announce_max_s: float | None = None
    spread_s: float | None = None
    max_wait_s: float | None = None
    attach: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Request):
    """Serve again: undoes `Quiesce` and `Drain`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart(Request):
    """Replace all workers, or the one with `worker_id`, or the one of `core`, one after the other."""

    worker_id: int | None = None
    core: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload(Request):
    """Read the configuration again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowConfig(Request):
    """Return the configuration that is in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade(Request):
    """Run the installation that is on disk now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Request):
    """Close connections that are older than this."""

    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale(Request):
    """Run this many workers."""

    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLevel(Request):
    """Log at these levels for a time; without `levels`, as configured."""

    #: As velocity_edge/text/log_levels.py reads them.
    levels: str | None = None
    for_s: float | None = None

    def check(self) -> None:
        """Refuse levels that cannot be understood."""
        try:
            parse_levels(self.levels or "")
        except VelocityError as error:
            raise BadRequest(str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Request):
    """Stop the node: drain first, or with `fast` close all connections at once."""

    fast: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKeys(Request):
    """Begin a new epoch; with `move`, have connections leave the connection IDs of earlier epochs."""

    move: bool = False
    spread_s: float | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireKeys(Request):
    """Stop accepting what epochs sealed: exactly one of `all`, `older_than_s` and `epoch` selects them."""

    all: bool = False
    older_than_s: float | None = None
    epoch: int | None = None
    spread_s: float | None = None
    timeout_s: float | None = None

    def check(self) -> None:
        """Refuse none and more than one selection."""
        if [self.all, self.older_than_s is not None, self.epoch is not None].count(True) != 1:
            raise BadRequest("cannot understand which epochs are meant: expected one of all, older_than_s and epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportKeys(Request):
    """Return all keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportKeys(Request):
    """Accept the keys of a document as well; with `replace`, use them in place of the node's own."""

    #: As velocity_edge/keys/document.py writes it. Secret: not for logs.
    document: Any = field(default=None, repr=False, metadata={"secret": True})
    replace: bool = False
    timeout_s: float | None = None
