"""Ending a node without a supervisor: its workers, its pins and its files.

Workers serve on when their supervisor dies, for the next one to adopt. Where none is to come, `velocity-edge admin stop
--orphans` ends them, and a service manager does so after a failed stop. A node whose supervisor lives is not touched.

The workers are named in state.json; where that was removed, by the titles of processes, which name the runtime
directory of a worker without a supervisor (holders.py).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from bpf import pins
from supervisor.machine import holders, spawn
from supervisor.machine.spawn import Process
from supervisor.succession.saved_state import SavedWorker
from supervisor.succession.state_file import StateFile
from velocity_edge import paths
from velocity_edge.errors import VelocityError

#: Workers without a supervisor close their connections on SIGTERM; after this they are killed.
_PATIENCE_S: Final = 5.0


def end_orphans() -> str:
    """End what an earlier supervisor of this runtime directory left, and return a sentence about it.

    Raises `VelocityError` when a supervisor lives, or for lack of privileges.
    """
    runtime = paths.runtime_dir()
    state_file = StateFile(runtime) if runtime.is_dir() else None
    try:
        saved = state_file.load() if state_file else None
        ended = _end([*_named(saved.workers if saved else []), *_titled(runtime)])
        unpinned = _unpin(paths.instance_name(runtime))
        if state_file:
            state_file.clear()
            for name in ("admin.sock", "workers.sock", "measured.json"):
                (runtime / name).unlink(missing_ok=True)
    except OSError as error:
        raise VelocityError(f"cannot end what is left in {runtime}: {error.strerror}") from None
    finally:
        if state_file:
            state_file.close()
    if not ended and not unpinned:
        return "nothing is left of an earlier node" if state_file else f"nothing is left: there is no {runtime}"
    return f"{ended} workers ended" + (", packet programs unpinned" if unpinned else "")


def _named(workers: list[SavedWorker]) -> list[Process]:
    """Return the processes of *workers* that are alive."""
    return [process for worker in workers if (process := _pinned(worker.pid, worker.start_ticks))]


def _titled(runtime: Path) -> list[Process]:
    """Return the workers whose titles say that they wait for a supervisor in *runtime*."""
    found = []
    for left in holders.all_orphans():
        if left.orphan.runtime != str(runtime):
            continue
        process = _pinned(left.pid, spawn.start_ticks(left.pid))
        if process and holders.orphan(left.pid) == left:
            found.append(process)
    return found


def _pinned(pid: int, ticks: int | None) -> Process | None:
    """Return a handle of the process with this pid, if it is still the one that started then."""
    try:
        process = spawn.adopt(pid)
    except ProcessLookupError:
        return None
    # Checked after the handle is open: the pid may have been reused before.
    if ticks is not None and spawn.start_ticks(pid) == ticks:
        return process
    process.close()
    return None


def _end(processes: list[Process]) -> int:
    alive = {process.pid: process for process in processes}
    try:
        for process in alive.values():
            process.terminate()
        deadline_s = time.monotonic() + _PATIENCE_S
        for process in alive.values():
            if not process.wait(max(0.0, deadline_s - time.monotonic())):
                process.kill()
                process.wait(_PATIENCE_S)
    except PermissionError:
        pids = ", ".join(map(str, alive))
        raise VelocityError(f"cannot end the workers that are left (process {pids}): root or their user may") from None
    finally:
        for process in processes:
            process.close()
    return len(alive)


def _unpin(instance: str) -> bool:
    pinned = pins.Pins(instance)
    there = pinned.instance.exists()
    if there:
        pinned.remove()
    return there
