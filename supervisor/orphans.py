"""Ending a node that has no supervisor any more: its workers, its pins and its files.

Workers serve on when their supervisor dies, for the next one to adopt. Where none shall come, they are in the way: this
is what `velocity-edge admin stop --orphans` does, and a service manager after a stop that did not go well. It never
touches a node whose supervisor lives.
"""

from __future__ import annotations

import time
from typing import Final

from bpf import pins
from supervisor import spawn
from supervisor.spawn import Process
from supervisor.state import SavedWorker, StateFile
from velocity_edge import paths

#: Workers without a supervisor close their connections when they are told to stop; after this they are killed.
_PATIENCE_S: Final = 5.0


def end_orphans() -> str:
    """End what an earlier supervisor of this runtime directory left, and say what it was.

    Raises `VelocityError` when a supervisor lives.
    """
    runtime = paths.runtime_dir()
    if not runtime.is_dir():
        return f"nothing is left: there is no {runtime}"
    state_file = StateFile(runtime)
    try:
        saved = state_file.load()
        ended = _end(saved.workers) if saved else 0
        unpinned = _unpin(paths.instance_name(runtime))
        state_file.clear()
        for name in ("admin.sock", "workers.sock"):
            (runtime / name).unlink(missing_ok=True)
    finally:
        state_file.close()
    if not ended and not unpinned:
        return "nothing is left of an earlier node"
    return f"{ended} workers ended" + (", packet programs unpinned" if unpinned else "")


def _end(workers: list[SavedWorker]) -> int:
    alive: list[Process] = []
    for worker in workers:
        try:
            process = spawn.adopt(worker.pid)
        except ProcessLookupError:
            continue
        # After it is pinned down: a pid that has been given away since is not ours.
        if spawn.start_ticks(worker.pid) == worker.start_ticks:
            alive.append(process)
        else:
            process.close()
    for process in alive:
        process.terminate()
    deadline_s = time.monotonic() + _PATIENCE_S
    for process in alive:
        if not process.wait(max(0.0, deadline_s - time.monotonic())):
            process.kill()
            process.wait(_PATIENCE_S)
        process.close()
    return len(alive)


def _unpin(instance: str) -> bool:
    pinned = pins.Pins(instance)
    there = pinned.instance.exists()
    if there:
        pinned.remove()
    return there
