"""Doctor's findings about packet steering: the best tier, found by opening it, and whether it outlives a supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from velocity_edge.machine.findings import Finding, Level

#: Compiling the programs takes seconds when the cache is empty.
_PATIENCE_S: Final = 60.0
_TIERS: Final = {"socket-classic": "A", "socket-ebpf": "B", "xdp": "C"}


def dispatch() -> Iterator[Finding]:
    """Examine packet steering."""
    yield _tier()
    yield _bpffs()


def _tier() -> Finding:
    """Run the supervisor's probe in a process: this package may not import the supervisor (docs/architecture.md)."""
    program = [sys.executable, "-I", "-m", "supervisor", "--probe"]
    try:
        answer = subprocess.run(program, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        found = json.loads(answer.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return Finding("dispatch", Level.LACKING, "cannot try the tiers", f"run {' '.join(program)} for the reason")
    tier, missing = _TIERS.get(found["tier"], found["tier"]), found["missing"]
    if not missing:
        return Finding("dispatch", Level.FINE, f"up to tier {tier}; D with dispatch.mode xdp-cpumap")
    return Finding("dispatch", Level.LACKING, f"tier {tier}, not {missing}", "see docs/containers.md")


def _bpffs() -> Finding:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("bpf "):
            where = fields.split()[4]
            if os.access(where, os.W_OK | os.X_OK):
                return Finding("bpffs", Level.FINE, f"at {where}")
            return Finding("bpffs", Level.LACKING, f"at {where}, not writable: programs end with the supervisor")
    return Finding(
        "bpffs", Level.NOTE, "not mounted; a supervisor with CAP_SYS_ADMIN mounts it", "mount -t bpf bpf /sys/fs/bpf"
    )
