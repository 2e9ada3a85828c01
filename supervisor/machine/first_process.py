"""Process 1 of a container: reaps orphans, forwards signals to the supervisor, and exits with its status.

Process 1 inherits every orphan of its pid namespace (`docker exec`, the shell of a health check) and must reap it;
otherwise they stay zombies. The kernel does not deliver a signal to process 1 that has no handler for it, so a SIGTERM
during the first second would be lost. A supervisor cannot reap unknown children without losing the exit status of its
own. So the supervisor is a child of process 1, in a process group of its own, because a terminal signals groups.
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

#: The signals that a supervisor handles, or that end it.
_FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
#: Variables in which a service manager names the process they are meant for (sd_listen_fds(3)).
_NAMES_A_PID: Final = ("LISTEN_PID", "WATCHDOG_PID")


def be_one_if_first() -> None:
    """As process 1, fork: the child returns and process 1 serves it. Any other process returns at once."""
    if os.getpid() != 1:
        return
    # Signals are blocked until there is a child to forward them to.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child:
        _be_first(child)
    os.setpgid(0, 0)
    rename(os.environ, os.getpid())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)


def rename(environment: MutableMapping[str, str], pid: int) -> None:
    """Change variables that name process 1 to name this process."""
    for name in _NAMES_A_PID:
        if environment.get(name) == "1":
            environment[name] = str(pid)


def _be_first(child: int) -> None:
    setproctitle.setproctitle("velocity-edge: first process")

    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            sys.stdout.flush()
            # 128 + the signal that ended it, as shells report it.
            os._exit(code if code >= 0 else 128 - code)
