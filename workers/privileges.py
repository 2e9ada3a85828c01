"""Giving up rights, for good: another user, no groups, no capabilities, no way back (no_new_privs).

Everything must be imported before, as the interpreter and this program may lie where the new user cannot read. And
no thread may run yet: the kernel's capability calls are per thread (libc makes setresuid process-wide, capset not).

What a worker keeps are its descriptors. It cannot open its own /proc files afterwards either (the process is no longer
"dumpable"), so that another process of the same user cannot read its keys.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velocity_edge.errors import Unavailable

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
#: _LINUX_CAPABILITY_VERSION_3: two words of 32 capabilities each.
_CAPABILITY_VERSION: Final = 0x20080522

#: Who workers are when nothing is configured, the first that exists.
DEFAULT_USERS: Final = ("velocity", "nobody")


@dataclass(frozen=True, slots=True)
class User:
    """Whom to become."""

    name: str
    uid: int
    gid: int


def find_user(name: str | None) -> User:
    """Return the user called *name*, or the default one. Raises `Unavailable`. Reads /etc/passwd: call it as root."""
    for candidate in (name,) if name else DEFAULT_USERS:
        try:
            found = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if found.pw_uid == 0:
            raise Unavailable(f"cannot run workers as {candidate}: its user id is 0, the point is to be somebody else")
        grp.getgrgid(found.pw_gid)
        return User(candidate, found.pw_uid, found.pw_gid)
    raise Unavailable(f"cannot run workers as {name or ' or '.join(DEFAULT_USERS)}: no such user")


def drop(user: User | None) -> None:
    """Become *user* (None: stay who we are, which is not root) and lose every capability. Raises OSError."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"{threads} threads run; capabilities are dropped for one thread only")
    libc = ctypes.CDLL(None, use_errno=True)
    if user is not None:
        # The bounding set: not even a set-uid program could give them back (needs CAP_SETPCAP, which root has).
        for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
            _check(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(libc.capset(ctypes.byref(header), ctypes.byref(nothing)))
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
