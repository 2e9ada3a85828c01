"""Which rights the supervisor keeps once everything is opened.

It needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_BIND_SERVICE to open sockets and load programs; afterwards map
updates need only the descriptors. What stays: to start workers as another user (SETUID, SETGID, SETPCAP), to end them
(KILL), to send them where they belong (SYS_NICE), and to read renewed certificates that belong to others
(DAC_READ_SEARCH).

An upgrade executes a new supervisor in this process, which must load its programs again. So the bounding set stays:
root gets its capabilities back from it, unless it was started with no_new_privs (systemd: NoNewPrivileges=). There, and
without root, what was given stays permitted, for `prepare_exec`.
This is a seat belt against our own mistakes, not a prison.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_KEPT: Final = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_SYS_NICE": 23,
}
#: _LINUX_CAPABILITY_VERSION_3: two words of 32 capabilities.
_VERSION_3: Final = 0x20080522


_PR_GET_NO_NEW_PRIVS: Final = 39
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2

_libc: Final = ctypes.CDLL(None, use_errno=True)


def drop_capabilities() -> None:
    """Act with the capabilities above only, of those that we have. Raises OSError."""
    keep = sum(1 << number for number in _KEPT.values())
    effective, permitted, _ = _get()
    _set(effective & keep, permitted & keep if _exec_gives_them_back() else permitted, 0)


def prepare_exec() -> None:
    """Hand what is permitted to the program that this process becomes, where exec would not. Raises OSError."""
    if _exec_gives_them_back():
        return
    _, permitted, _ = _get()
    _set(permitted, permitted, permitted)
    for number in range(64):
        if permitted >> number & 1:
            _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0), "PR_CAP_AMBIENT_RAISE")


def may_raise_priority() -> bool:
    """Say whether a worker that we start could lower its nice value again: until it drops its rights it has ours."""
    return bool(_get()[0] >> _KEPT["CAP_SYS_NICE"] & 1) and os.geteuid() == 0


def _exec_gives_them_back() -> bool:
    return os.geteuid() == 0 and _libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1


def _get() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable sets of this thread."""
    words = (ctypes.c_uint32 * 6)()
    _check(_libc.capget((ctypes.c_uint32 * 2)(_VERSION_3, 0), words), "capget")
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def _set(effective: int, permitted: int, inheritable: int) -> None:
    sets = (effective, permitted, inheritable)
    words = (ctypes.c_uint32 * 6)(*(s & 0xFFFFFFFF for s in sets), *(s >> 32 for s in sets))
    _check(_libc.capset((ctypes.c_uint32 * 2)(_VERSION_3, 0), words), "capset")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
