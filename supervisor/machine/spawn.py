"""Starting, watching and killing worker processes.

A worker is a program, `python -I -m workers`, not a fork of the supervisor. It has a session of its own (a Ctrl-C in
the terminal reaches only the supervisor) and no parent death signal (it goes on serving when the supervisor dies). It
is watched through its pidfd, which never refers to another process. An adopted worker is not a child of this
supervisor, so its exit status is unknown.

A new worker on a core where another worker serves starts with a low priority: it imports modules for a second, and
packets are more urgent. It raises its priority when it gets its sockets (workers/process/scheduling.py). The successor
of a dead worker starts with normal priority: no worker serves on its core, clients wait for stateless resets, and on a
busy machine a low priority cost it 20 s.

A worker sets its CPU affinity and its out-of-memory score itself (workers/process/scheduling.py): from outside each
would need a capability that the supervisor may not have.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.machine.privileges import may_raise_priority, signal_process

#: The nice value of a starting worker: about a tenth of a busy core, all of an idle one (sched(7)).
NEWCOMER_NICE: Final = 10
#: The low priority ends after this. Where other processes keep the CPU busy, too, its share is less than a tenth, and
#: rolling restarts failed because the new worker was not ready within 30 s.
PATIENCE_S: Final = 5.0

#: The program of a worker; tests pass another one.
WORKER_PROGRAM: Final = (sys.executable, "-I", "-m", "workers")


@dataclass(slots=True)
class Process:
    """The process of a worker. `child` is None when it was adopted, also by this process after an upgrade (exec)."""

    pid: int
    pidfd: int
    child: subprocess.Popen[bytes] | None

    def exit_status(self) -> int | None:
        """Reap, once the pidfd is readable; return the exit code, minus the signal, or None when it is not a child."""
        if self.child:
            return self.child.wait()
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:
            return None
        assert result is not None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def kill(self) -> None:
        """Send SIGKILL; do nothing when the process has ended."""
        signal_process(self.pid, self.pidfd, signal.SIGKILL)

    def hurry(self) -> None:
        """End the low priority of a starting worker, if it has not done so itself."""
        # The process is not reaped yet, so the pid is still its own.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.pid, os.getpriority(os.PRIO_PROCESS, 0))
            Path(f"/proc/{self.pid}/autogroup").write_text("0")

    def terminate(self) -> None:
        """Send SIGTERM; do nothing when the process has ended."""
        signal_process(self.pid, self.pidfd, signal.SIGTERM)

    def wait(self, timeout_s: float) -> bool:
        """Block until the process has ended; return whether it has."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        """Stop watching."""
        os.close(self.pidfd)


def spawn(
    program: Sequence[str], worker_id: int, slot: int, cpu: int, channel: socket.socket, *, patient: bool
) -> Process:
    """Start a worker for a CPU, with its end of the channel. *patient*: start with a low priority.

    Raises OSError (no memory, no processes).
    """
    fd = channel.fileno()
    arguments = ["--worker-id", str(worker_id), "--slot", str(slot), "--cpu", str(cpu), "--channel", str(fd)]
    child = subprocess.Popen([*program, *arguments], pass_fds=[fd], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        process = Process(child.pid, os.pidfd_open(child.pid), child)
    except OSError:
        child.kill()
        child.wait()
        raise
    if patient and may_raise_priority():
        # Not reaped yet, so the pid is still its own. Autogroup scheduling gives each session its own share.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + NEWCOMER_NICE)
            Path(f"/proc/{child.pid}/autogroup").write_text(str(NEWCOMER_NICE))
    return process


def adopt(pid: int) -> Process:
    """Watch a process that another supervisor started. Raises ProcessLookupError when it has ended."""
    return Process(pid, os.pidfd_open(pid), None)


def start_ticks(pid: int) -> int | None:
    """Return the start of a process in ticks since boot, which with the pid identifies it. None: no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return None
