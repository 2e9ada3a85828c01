"""Drops the privileges of a worker permanently: another user, no groups, no capabilities, no_new_privs.

Which user that is, if any, is decided in velocity_edge/machine/worker_user.py; without one a worker keeps the user of
its supervisor, and loses the capabilities all the same.

Everything must be imported before, because the new user may not be able to read the interpreter and this program. No
thread may run yet: the kernel's capability calls are per thread (libc makes setresuid process-wide, but not capset).

A worker keeps its descriptors. It cannot open its own /proc files afterwards (the process is no longer "dumpable"), so
that another process of the same user cannot read its keys.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from velocity_edge.errors import Unavailable
from velocity_edge.machine import capabilities
from velocity_edge.machine.worker_user import User

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
#: More than any kernel has; the first unknown one ends the loop.
_CAPABILITIES: Final = 64


def drop(user: User | None) -> None:
    """Change to *user* (None: keep the present one) and drop every capability. Raises `Unavailable` if that fails."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"{threads} threads run; capabilities are dropped for one thread only")
    try:
        # First: from now on no program can gain privileges, whatever its file permits.
        capabilities.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _empty_bounding_set()
        if user is not None:
            os.setgroups([])
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        capabilities.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        capabilities.put(0, 0, 0)
        capabilities.prctl(_PR_SET_DUMPABLE, 0)
    except OSError as error:
        raise Unavailable(f"cannot drop the privileges of a worker: {error.strerror}") from None


def _empty_bounding_set() -> None:
    """An additional safeguard beside no_new_privs. It requires CAP_SETPCAP, and is left out without."""
    with contextlib.suppress(OSError):
        for capability in range(_CAPABILITIES):
            capabilities.prctl(_PR_CAPBSET_DROP, capability)
