"""The capabilities of this process (capabilities(7)): reading and dropping them. Numbers: linux/capability.h.

Root may lack capabilities: containers, user namespaces and service managers remove different ones. So code checks for
the capability it needs by name, never for root. The kernel keeps capabilities per thread: call these functions while
there is only one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from typing import Final

NUMBERS: Final = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_NICE": 23,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
#: _LINUX_CAPABILITY_VERSION_3: two words of 32 capabilities.
_VERSION_3: Final = 0x20080522
_PR_GET_NO_NEW_PRIVS: Final = 39
_PR_GET_SECUREBITS: Final = 27
_SECBIT_NOROOT: Final = 1

_libc: Final = ctypes.CDLL(None, use_errno=True)


def get() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable sets, as bits. Raises OSError."""
    words = (ctypes.c_uint32 * 6)()
    check(_libc.capget((ctypes.c_uint32 * 2)(_VERSION_3, 0), words), "capget")
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def put(effective: int, permitted: int, inheritable: int) -> None:
    """Replace the three sets. Raises OSError."""
    sets = (effective, permitted, inheritable)
    words = (ctypes.c_uint32 * 6)(*(s & 0xFFFFFFFF for s in sets), *(s >> 32 for s in sets))
    check(_libc.capset((ctypes.c_uint32 * 2)(_VERSION_3, 0), words), "capset")


def prctl(option: int, argument: int, value: int = 0) -> None:
    """prctl(2). Raises OSError."""
    check(_libc.prctl(option, argument, value, 0, 0), f"prctl {option}")


def missing(names: Collection[str], effective: int | None = None) -> list[str]:
    """Return the capabilities of *names* that are not effective."""
    have = get()[0] if effective is None else effective
    return [name for name in names if not have >> NUMBERS[name] & 1]


def exec_gives_them_back() -> bool:
    """Return whether exec(2) gives this process all capabilities of the bounding set again, as it does for root."""
    no_new_privs = _libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
    no_root = _libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0) & _SECBIT_NOROOT
    return os.geteuid() == 0 and not no_new_privs and not no_root


def check(result: int, what: str) -> None:
    """Raise OSError when a call of libc has failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
