"""Which rights the supervisor keeps once everything is opened.

It needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_BIND_SERVICE to open sockets and load programs; afterwards map
updates need only the descriptors. What stays: to start workers as another user (SETUID, SETGID, SETPCAP), to end them
(KILL), to send them where they belong (SYS_NICE), and to read renewed certificates that belong to others
(DAC_READ_SEARCH).

Only the effective and permitted sets shrink. The bounding set stays, because an upgrade executes a new supervisor in
this process that must load its programs again: this is a seat belt against our own mistakes, not a prison.
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


def drop_capabilities() -> None:
    """Keep the capabilities above, of those that we have. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    words = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same for capabilities 32-63
    if libc.capget(header, words) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    keep = sum(1 << number for number in _KEPT.values())
    words[0], words[1], words[2] = words[0] & keep, words[1] & keep, words[2] & keep
    words[3] = words[4] = words[5] = 0
    if libc.capset(header, words) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def held_capabilities() -> int:
    """Return the effective set as a bit mask, for `status` and tests."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
