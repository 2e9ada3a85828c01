"""The process title of a worker, as `ps` shows it. A worker without a supervisor is found by its title.

velocity-edge: worker 17 core 0 · serving · 3 connections
velocity-edge: worker 17 core 0 · drained without supervisor in /run/ve since 2026-11-29T06:44:47Z · 0 connections
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final

_ORPHAN: Final = re.compile(
    r"velocity-edge: worker (?P<id>\d{1,5}) core \d+ · \w+ without supervisor"
    r"(?: in (?P<runtime>/.*) since (?P<since>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ))? · \d+ connections?"
)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A worker without a supervisor. `runtime` is where it looks for a supervisor, "" from an older version."""

    worker_id: int
    runtime: str
    since: str


def worker_title(worker_id: int, cpu: int, state: str, connections: int) -> str:
    """Return the title."""
    noun = "connection" if connections == 1 else "connections"
    return f"velocity-edge: worker {worker_id} core {cpu} · {state} · {connections} {noun}"


def without_supervisor(runtime: str, since_s: float) -> str:
    """Return the addition to the state of a worker that has had no supervisor since then (wall clock)."""
    return f" without supervisor in {runtime} since {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(since_s))}"


def orphan_of(title: str) -> Orphan | None:
    """Return the worker without a supervisor that a title names; None for any other title."""
    found = _ORPHAN.fullmatch(title.strip())
    if found is None:
        return None
    return Orphan(int(found["id"]), found["runtime"] or "", found["since"] or "")
