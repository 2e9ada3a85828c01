"""The default number of workers: the CPUs that this process may run on, limited by the CPU quota of its control group.

A container on a machine with 64 CPUs often has a quota of two (`--cpus 2`). With a worker per CPU, each of them would
be throttled for most of every period, in the middle of handshakes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Mount points of cgroup version 2, alone or beside version 1.
_UNIFIED: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_VERSION_1: Final = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct"))


def workers_by_default() -> int:
    """Return the number of workers of a node without `server.workers`."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, math.ceil(quota))


def affinity_refused() -> str:
    """Return why workers cannot be bound to CPUs; empty when they can."""
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except OSError as error:
        return f"workers are not bound to CPUs: sched_setaffinity(2) failed: {error.strerror}"
    return ""


def cpu_quota() -> float | None:
    """Return the CPU quota of the control group, in CPUs; None: no limit is visible."""
    found = list(_quotas(_read(Path("/proc/self/cgroup"))))
    return min(found, default=None)


def _quotas(groups: str) -> Iterator[float]:
    """Yield the limits of the control group and its ancestors. *groups* is the text of /proc/self/cgroup."""
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            for directory in _up(_UNIFIED, path):
                yield from _of_texts(*_read(directory / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for directory in _up(_VERSION_1, path):
                yield from _of_texts(_read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us"))


def _up(mounts: tuple[Path, ...], path: str) -> Iterator[Path]:
    """Yield the directories of a group and its ancestors; the mount where a container sees its group as the root."""
    for mount in mounts:
        group = mount / path.lstrip("/")
        for directory in (group, *group.parents):
            if directory.is_relative_to(mount):
                yield directory


def _of_texts(*texts: str) -> Iterator[float]:
    """Yield quota / period from the microseconds in *texts*; "max", -1 and an empty text are no limit."""
    numbers = [int(text) for text in texts if text.strip().lstrip("-").isdigit()]
    if len(numbers) == 2 and numbers[0] > 0 and numbers[1] > 0:
        yield numbers[0] / numbers[1]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
