"""Exit codes: the same for every verb and for the supervisor, so that scripts can tell why a program ended.

The last line of an answer of the admin API has one, too (velocity_edge/admin/answers.py).
"""

from __future__ import annotations

import enum

from velocity_edge.errors import CannotDo, ConfigError, TimedOut, Unavailable, Unreachable, VelocityError


class Exit(enum.IntEnum):
    """What an exit code means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    #: The node or the server does not answer.
    UNREACHABLE = 3
    #: The time is up; the operation goes on.
    TIMED_OUT = 4
    #: Refused, not available here, or no longer possible.
    IMPOSSIBLE = 5
    #: It works, but something is degraded (status, health, doctor).
    DEGRADED = 6
    BAD_CONFIG = 78


def exit_code(error: VelocityError) -> Exit:
    """Return the exit code for *error*."""
    match error:
        case ConfigError():
            return Exit.BAD_CONFIG
        case CannotDo() | Unavailable():
            return Exit.IMPOSSIBLE
        case Unreachable():
            return Exit.UNREACHABLE
        case TimedOut():
            return Exit.TIMED_OUT
        case _:
            return Exit.FAILED
