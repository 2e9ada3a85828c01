"""Being process 1 of a container: reap what others leave, hand on signals, end as the supervisor does.

Process 1 inherits every orphan of its pid namespace (`docker exec`, a health check's shell) and must reap it, or they
stay as zombies for ever; and the kernel does not deliver a signal to it that it has no handler for, so that a SIGTERM
during the first second would be lost. A supervisor cannot reap children that it does not know without taking away the
exit status of those it does. So it is a child, in a process group of its own, because a terminal signals groups.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import MutableMapping
from types import FrameType
from typing import Final

import setproctitle

#: Those that a supervisor has a meaning for, or that end it.
_HANDED_ON: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
#: Who was told a pid of ours by a service manager means the process that has it (sd_listen_fds(3)).
_NAMES_A_PID: Final = ("LISTEN_PID", "WATCHDOG_PID")


def be_one_if_first() -> None:
    """Where this is process 1, return in a child of it, which is not; anywhere else, return."""
    if os.getpid() != 1:
        return
    # Until there is somebody to hand them to, signals wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
    child = os.fork()
    if child:
        _be_first(child)
    os.setpgid(0, 0)
    rename(os.environ, os.getpid())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)


def rename(environment: MutableMapping[str, str], pid: int) -> None:
    """What was meant for process 1 is meant for this one."""
    for name in _NAMES_A_PID:
        if environment.get(name) == "1":
            environment[name] = str(pid)


def _be_first(child: int) -> None:
    setproctitle.setproctitle("velocity-edge: first process")

    def hand_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _HANDED_ON:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            sys.stdout.flush()
            # As a shell says it: ended by a signal.
            os._exit(code if code >= 0 else 128 - code)
