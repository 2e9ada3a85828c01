"""Starting, watching and killing worker processes.

A worker is a program, never a fork of us: `python -I -m workers`, in a session of its own (a Ctrl-C in the terminal is
for the supervisor alone) and without a death signal (it serves on when we die). It is watched through its pidfd, which
cannot come to name somebody else; a worker that was adopted is no child of ours, so its exit status stays unknown.

A newcomer on a core where another worker serves starts with a low priority: it imports for a second, and packets are
more urgent than imports. It raises itself when it gets its sockets (workers/process/scheduling.py). The successor of a
dead worker does not: nobody serves there, connections wait for their resets, and on a busy machine patience cost it 20
s.

What a worker can do for itself it does (process/scheduling.py there): its CPU, its place in the out-of-memory killer's
list. From outside each would need a right over somebody who may have more of them than we do.
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

#: Of a worker that starts: about a tenth of the CPU when its core is busy, all of it when not (sched(7)).
NEWCOMER_NICE: Final = 10
#: It is patient for so long. Where others keep the CPU busy, too, a tenth is less, and rolling restarts failed because
#: the newcomer was not ready in its 30 s.
PATIENCE_S: Final = 5.0

#: The program of a worker; tests pass another one.
WORKER_PROGRAM: Final = (sys.executable, "-I", "-m", "workers")


@dataclass(slots=True)
class Process:
    """A worker's process. `child` is None when it was adopted, be it from ourselves before an exec (an upgrade)."""

    pid: int
    pidfd: int
    child: subprocess.Popen[bytes] | None

    def exit_status(self) -> int | None:
        """Reap, once the pidfd is readable; return the exit code, minus the signal, or None when we are no parent."""
        if self.child:
            return self.child.wait()
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:
            return None
        assert result is not None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def kill(self) -> None:
        """SIGKILL; nothing when it is gone already."""
        signal_process(self.pid, self.pidfd, signal.SIGKILL)

    def hurry(self) -> None:
        """Be patient no more: our priority, if it has not taken that itself."""
        # Not yet reaped, so the pid is its own.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.pid, os.getpriority(os.PRIO_PROCESS, 0))
            Path(f"/proc/{self.pid}/autogroup").write_text("0")

    def terminate(self) -> None:
        """SIGTERM; nothing when it is gone already."""
        signal_process(self.pid, self.pidfd, signal.SIGTERM)

    def wait(self, timeout_s: float) -> bool:
        """Block until it is gone; return whether it is."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        """Stop watching."""
        os.close(self.pidfd)


def spawn(
    program: Sequence[str], worker_id: int, slot: int, cpu: int, channel: socket.socket, *, patient: bool
) -> Process:
    """Start a worker for a CPU, with its end of the channel. *patient*: leave the CPU to who serves there.

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
        # Not yet reaped, so the pid is its own. A session has a share of its own where the kernel groups tasks by it.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + NEWCOMER_NICE)
            Path(f"/proc/{child.pid}/autogroup").write_text(str(NEWCOMER_NICE))
    return process


def adopt(pid: int) -> Process:
    """Watch a process that another supervisor started. Raises ProcessLookupError when it is gone."""
    return Process(pid, os.pidfd_open(pid), None)


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since boot: together with the pid its name for good. None: no such."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return None
