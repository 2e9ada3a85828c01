"""Whether the kernel has just ended a process because there was no memory: what a worker's SIGKILL may mean.

The kernel tells nobody who was chosen. /proc/vmstat counts such ends on the whole machine, in control groups too; a
count that has grown within the last second or two, and a worker that was ended by a signal that we did not send, belong
together so often that it is worth a hint in the log.
"""

from __future__ import annotations

from pathlib import Path

_VMSTAT = Path("/proc/vmstat")


class OutOfMemory:
    """Remembers the count."""

    def __init__(self, vmstat: Path = _VMSTAT) -> None:
        self._vmstat = vmstat
        self._before = self._count()

    def happened(self) -> bool:
        """Return whether somebody was ended since the last call."""
        before, self._before = self._before, self._count()
        return self._before > before

    def _count(self) -> int:
        try:
            lines = self._vmstat.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
