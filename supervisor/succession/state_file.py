"""`<runtime>/state.json`, replaced as a whole, and the lock beside it. What is in the file: saved_state.py.

The file is written before the commands that follow from it are carried out, so that no worker id is lent twice whenever
the supervisor is killed. Only one supervisor may use a runtime directory: it holds a lock on
`<runtime>/supervisor.lock` until its process ends, in whichever way.

A file that cannot be read while its workers live ends the start: sockets that are opened anew beside them would take
their packets away.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from supervisor.machine.kept import KeptFile, Trouble
from supervisor.machine.spawn import start_ticks
from supervisor.succession.saved_state import OLDEST_VERSION, VERSION, SavedState, decode, encode
from velocity_edge.atomic_file import read_file
from velocity_edge.errors import VelocityError
from velocity_edge.paths import private_directory

log = logging.getLogger(__name__)

#: The state of a node with 256 cores and a configuration of 4 MiB is smaller.
_MAX_STATE_BYTES: Final = 64 * 2**20
_LOCK: Final = "supervisor.lock"
#: All users may look for the disable file, and workers for their supervisor.
_RUNTIME_MODE: Final = 0o755


def _readable(version: object) -> bool:
    return isinstance(version, int) and OLDEST_VERSION <= version <= VERSION


def _living(workers: list[dict[str, int]]) -> list[int]:
    """Return the pids of the workers that are alive. `pid` and `start_ticks` mean the same in every version."""
    return [worker["pid"] for worker in workers if start_ticks(worker["pid"]) == worker["start_ticks"]]


def boot_id() -> str:
    """Return the id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_state(runtime: Path) -> SavedState | None:
    """Return what an earlier supervisor left; None when it left nothing, or no live workers.

    Raises `VelocityError` when workers may live that cannot be found, or that this version cannot use: they serve on.
    """
    path = runtime / "state.json"
    try:
        content = read_file(path, _MAX_STATE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VelocityError(f"cannot start: {path}: cannot read it: {error.strerror}") from None
    try:
        document = json.loads(content)
        if document["boot_id"] != boot_id():
            return None  # its workers ended with the earlier boot
        version = document.get("version")
        pids = _living(document["workers"])
        saved = decode(content) if _readable(version) else None
    except (ValidationError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise VelocityError(
            f"cannot start: {path} is damaged; workers that it named may serve on and could not be "
            "adopted: end them (`ps -eo pid,args | grep velocity-edge:`) and remove the file to start anew"
        ) from None
    if saved is None and pids:
        raise VelocityError(
            f"cannot start: {path} has version {version}, this velocity-edge reads versions {OLDEST_VERSION} to "
            f"{VERSION}; its {len(pids)} workers (process {', '.join(map(str, pids))}) serve on: start the "
            "velocity-edge that wrote it, or end them to start anew"
        )
    if saved is None:
        log.warning("%s has version %s, which cannot be read; its workers have exited: starting anew", path, version)
    return saved


def orphaned_workers(runtime: Path) -> list[int]:
    """Return the pids of the workers of *runtime* that serve without another supervisor, as far as files tell."""
    try:
        holder = read_file(runtime / _LOCK, 64).decode(errors="replace").strip()
        if holder != str(os.getpid()) and start_ticks(int(holder)) is not None:
            return []
        document = json.loads(read_file(runtime / "state.json", _MAX_STATE_BYTES))
        return _living(document["workers"]) if document["boot_id"] == boot_id() else []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []


class StateFile:
    """The file, and the lock beside it.

    Both may be removed while the node runs, with the directory or without it: `keep` restores them. When another
    supervisor has taken the lock meanwhile, the directory belongs to it, and this one writes nothing there.
    """

    def __init__(self, runtime: Path) -> None:
        """Take the lock, or raise `VelocityError`: a node runs there already."""
        self._runtime = runtime
        cost = "a supervisor that comes after this one would not find all workers"
        self._file = KeptFile(runtime / "state.json", cost, folder_mode=_RUNTIME_MODE)
        self._held = Trouble("a second supervisor might use this directory, too")
        self._lock = _take_lock(runtime)
        self._made_again = False

    @property
    def problems(self) -> list[str]:
        """What is wrong with them, for `status`."""
        return [text for text in (self._held.text, self._file.problem) if text]

    @property
    def ours(self) -> bool:
        """Whether the directory still has the lock file that this supervisor holds."""
        try:
            found = (self._runtime / _LOCK).stat()
        except OSError:
            return False
        held = os.fstat(self._lock)
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def load(self) -> SavedState | None:
        """Return what an earlier supervisor left (`read_state`)."""
        return read_state(self._runtime)

    def save(self, state: SavedState) -> None:
        """Replace the file, if something has changed.

        Not synced to disk: a runtime directory is in memory, and a machine that loses power has no workers left.
        """
        again = not self.ours
        if not again or self._take_again():
            self._file.should_be(encode(state), again=again)

    def keep(self) -> bool:
        """Restore what is missing; return whether the directory, or the lock in it, was created again since."""
        if not self.ours and not self._take_again():
            return False
        self._file.restore()
        self._file.retry()
        again, self._made_again = self._made_again, False
        return again

    def _take_again(self) -> bool:
        try:
            lock = _take_lock(private_directory(self._runtime, mode=_RUNTIME_MODE))
        except VelocityError as error:
            self._held.begins(f"cannot hold {self._runtime / _LOCK}: {str(error).removeprefix('cannot start: ')}")
            return False
        os.close(self._lock)
        self._lock, self._made_again = lock, True
        self._held.ends(f"{self._runtime} is held")
        log.warning("%s was removed while this node runs: it is created again, with its files", self._runtime)
        return True

    def clear(self) -> None:
        """Remove the file: the node has stopped, no worker is left to adopt."""
        if self.ours:
            self._file.should_be(None)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)


def _take_lock(runtime: Path) -> int:
    """Return the locked descriptor. Raises `VelocityError`: a node runs there already, or no file can be created."""
    path = runtime / _LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise VelocityError(f"cannot start: {path}: cannot open it: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise VelocityError(
            f"cannot start: a node runs in {runtime} already (process {pid if pid.isdigit() else 'unknown'}); "
            "expected another VELOCITY_RUNTIME_DIR for a second one"
        ) from None
    except OSError as error:
        # The lock is what counts; the number in it is informative.
        log.warning("cannot write our process id into %s: %s", path, error.strerror)
    return lock
