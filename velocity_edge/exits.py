"""Exit codes, the same for every verb, so that scripts and runbooks can tell why a command ended."""

from __future__ import annotations

import enum

from velocity_edge.errors import CannotDo, ConfigError, TimedOut, Unavailable, Unreachable, VelocityError


class Exit(enum.IntEnum):
    """What the exit code of a command means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    #: The node or the peer does not answer.
    UNREACHABLE = 3
    #: The state was still changing when the time was up.
    TIMED_OUT = 4
    #: Refused, or can never be met.
    IMPOSSIBLE = 5
    #: It works, but not as well as it should (doctor, health).
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
