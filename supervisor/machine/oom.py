"""Whether the kernel has just killed a process for lack of memory: a possible reason for a worker's SIGKILL.

The kernel does not report which process it killed. /proc/vmstat counts these kills on the whole machine, in control
groups, too. When the count has grown within the last second or two and a worker was killed by a signal that the
supervisor did not send, the two are related often enough for a hint in the log. Short because it is one counter.
"""

from __future__ import annotations

from pathlib import Path

_VMSTAT = Path("/proc/vmstat")


class OutOfMemory:
    """The count at the last call."""

    def __init__(self, vmstat: Path = _VMSTAT) -> None:
        self._vmstat = vmstat
        self._before = self._count()

    def happened(self) -> bool:
        """Return whether a process was killed since the last call."""
        before, self._before = self._before, self._count()
        return self._before > before

    def _count(self) -> int:
        try:
            lines = self._vmstat.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
