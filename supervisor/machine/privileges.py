"""The capabilities that the supervisor keeps after everything is opened.

It needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_BIND_SERVICE to open sockets and load programs; afterwards map
updates need only the descriptors. It keeps those to start workers as another user (SETUID, SETGID, SETPCAP), to kill
them (KILL), to start new workers with a lower priority (SYS_NICE), and to read renewed certificates of other users
(DAC_READ_SEARCH). Each may be missing, and the supervisor works without it.

An upgrade executes a new supervisor in this process, which must load its programs again. So the bounding set stays:
root gets its capabilities back from it, unless it was started with no_new_privs (systemd: NoNewPrivileges=). There, and
without root, the capabilities stay permitted, for `prepare_exec`. So dropping them limits the effect of bugs in the
supervisor; it does not contain an attacker who executes code in it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import signal
import threading
from pathlib import Path
from typing import Final

from velocity_edge.machine import capabilities

log = logging.getLogger("supervisor")

_KEPT: Final = ("CAP_DAC_READ_SEARCH", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_NICE")

_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_SETRESUID: Final = {"x86_64": 117, "aarch64": 147}

_libc: Final = ctypes.CDLL(None, use_errno=True)


def drop_capabilities() -> None:
    """Drop all effective capabilities but those above. Raises OSError."""
    keep = sum(1 << capabilities.NUMBERS[name] for name in _KEPT)
    effective, permitted, _ = capabilities.get()
    back = capabilities.exec_gives_them_back()
    capabilities.put(effective & keep, permitted & keep if back else permitted, 0)


def prepare_exec() -> None:
    """Pass the permitted capabilities to the program that this process executes, where exec(2) would not.

    A failure is logged, not raised: the program must start, with fewer capabilities.
    """
    if capabilities.exec_gives_them_back():
        return
    try:
        _, permitted, _ = capabilities.get()
        capabilities.put(permitted, permitted, permitted)
        for number in range(64):
            if permitted >> number & 1:
                capabilities.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
    except OSError as error:
        log.warning("cannot pass the capabilities to the next program: %s", error.strerror)


def may_raise_priority() -> bool:
    """Return whether a new worker can lower its nice value again, with the capabilities that it inherits at first."""
    return os.geteuid() == 0 and not capabilities.missing(["CAP_SYS_NICE"])


def signal_process(pid: int, pidfd: int, number: int) -> None:
    """Send a signal to a worker; do nothing when it has ended.

    Without CAP_KILL the supervisor may not signal a process of another user, but with CAP_SETUID it can become that
    user. Credentials belong to threads (libc's setresuid changes all of them, the system call only one): so a thread
    becomes that user, sends the signal, and ends.
    """
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        thread = threading.Thread(target=_signal_as_its_user, args=(pid, pidfd, number))
        thread.start()
        thread.join()


def _signal_as_its_user(pid: int, pidfd: int, number: int) -> None:
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        uid = int(next(line.split()[1] for line in status if line.startswith("Uid:")))
        result = _libc.syscall(ctypes.c_long(_SETRESUID[platform.machine()]), uid, uid, uid)
        capabilities.check(result, "setresuid")
        signal.pidfd_send_signal(pidfd, number)
    except (FileNotFoundError, ProcessLookupError):
        pass
    except OSError as error:
        log.error("cannot signal worker process %d: %s; needs CAP_KILL or CAP_SETUID", pid, error.strerror)
