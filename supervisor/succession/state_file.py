"""What a supervisor that comes after this one must know: `<runtime>/state.json`, replaced as a whole, and the lock.

The file names the living workers (by pid and start time: a recycled pid is no worker), which slots there are,
which dead worker ids may still get packets, what an operator had asked for (a quiesce, a rolling restart), which
configuration is in use, and the next id to lend. It is written before the commands that follow from it are carried out,
so that no id is lent twice whenever we are killed.

Only one supervisor may use a runtime directory: it holds a lock on `<runtime>/supervisor.lock` until it dies, whichever
way. Times are CLOCK_MONOTONIC and mean nothing after a reboot: the boot id says so, and the rest of the file goes too.

The file grows as messages do (docs/adr/0007-versions-side-by-side.md): a field that we do not know is ignored, a new
one has a default, and `version` changes only when the meaning of a field does. A file that we cannot read while its
workers live ends the start: opening everything anew beside them would take their packets away.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from supervisor.machine.kept import KeptFile, Trouble
from supervisor.machine.spawn import start_ticks
from velocity_edge.atomic_file import read_file
from velocity_edge.errors import VelocityError
from velocity_edge.paths import private_directory
from velocity_edge.wire.messages import Listener

log = logging.getLogger(__name__)

#: The meaning of the fields, and the oldest meaning that we still read.
VERSION: Final = 1
OLDEST_VERSION: Final = 1
_GROWING: Final = ConfigDict(extra="ignore")
#: A node with 256 cores and a configuration of 4 MiB has less.
_MAX_STATE_BYTES: Final = 64 * 2**20
_LOCK: Final = "supervisor.lock"
#: Anybody may look for the disable file, and workers for their supervisor.
_RUNTIME_MODE: Final = 0o755


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedWorker:
    """A living worker."""

    worker_id: int
    core: int
    slot: int
    pid: int
    start_ticks: int
    leaving: bool
    leave_by_s: float | None = None


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedDeparted:
    """A dead worker id that packets may still carry."""

    worker_id: int
    core: int
    slot: int
    until_s: float


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedQuiesce:
    """An operator's wish that outlives us."""

    mode: str
    reason: str
    announce_s: float
    spread_s: float
    deadline_s: float
    since_s: float


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedDrain:
    """A drain that is under way, or the last one (contract.py)."""

    reason: str
    settle_below_per_s: float
    settle_s: float
    announce_max_s: float
    spread_s: float
    max_wait_s: float
    since_s: float
    phase: str
    phase_since_s: float
    proof: str = ""
    error: str = ""
    lost: int = 0
    cut: int = 0
    was_quiesced: bool = False
    ordered: bool = False
    released: bool = False
    file_there: bool = True


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedRollout:
    """A rolling restart that outlives us, too."""

    cores: list[int]
    newcomer: int | None


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedState:
    """The file. `revision` is the one in use, `last_revision` the newest that any worker may have heard of.

    `config` is what `revision` means: the file that the node was configured from may have changed, or be wrong, by now.
    """

    boot_id: str
    cores: int
    cpus: list[int]
    target: int
    next_id: int
    revision: int
    listeners: list[Listener]
    workers: list[SavedWorker]
    departed: list[SavedDeparted]
    quiesced: SavedQuiesce | None
    #: The workers are to be replaced by whoever adopts them: an upgrade.
    roll: bool = False
    drain: SavedDrain | None = None
    adoptions: int = 0
    rollout: SavedRollout | None = None
    last_revision: int = 0
    config: dict[str, Any] | None = None
    #: Those that new connections went to.
    accepting: list[int] = field(default_factory=list)
    version: int = VERSION


_ADAPTER: Final = TypeAdapter(SavedState)


def _readable(version: object) -> bool:
    return isinstance(version, int) and OLDEST_VERSION <= version <= VERSION


def _living(workers: list[dict[str, int]]) -> list[int]:
    """Return the pids of those that are alive. `pid` and `start_ticks` mean the same in every version."""
    return [worker["pid"] for worker in workers if start_ticks(worker["pid"]) == worker["start_ticks"]]


def boot_id() -> str:
    """Return the name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_state(runtime: Path) -> SavedState | None:
    """Return what an earlier supervisor left; None when it left nothing, or nothing that lives.

    Raises `VelocityError` when workers may live that we cannot find or would not understand: they serve on.
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
            return None  # whoever it names died with the machine
        version = document.get("version")
        pids = _living(document["workers"])
        saved = _ADAPTER.validate_json(content) if _readable(version) else None
    except (ValidationError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise VelocityError(
            f"cannot start: {path} is damaged; workers that it named may serve on and nobody would find "
            "them: end them (`ps -eo pid,args | grep velocity-edge:`) and remove the file to start anew"
        ) from None
    if saved is None and pids:
        raise VelocityError(
            f"cannot start: {path} has version {version}, this velocity-edge reads {OLDEST_VERSION} to "
            f"{VERSION}; its {len(pids)} workers (process {', '.join(map(str, pids))}) serve on: start the "
            "velocity-edge that wrote it, or end them to start anew"
        )
    if saved is None:
        log.warning("%s has version %s, which nobody here reads; its workers are gone: starting anew", path, version)
    return saved


def orphaned_workers(runtime: Path) -> list[int]:
    """Return the process ids of the workers that serve here with no supervisor but us, as far as files tell."""
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

    Somebody may remove both while the node lives, with the folder or without it: `keep` brings them back. When another
    supervisor was quicker, the folder is its own, and we write there no more.
    """

    def __init__(self, runtime: Path) -> None:
        """Take the lock, or raise `VelocityError`: a node runs there already."""
        self._runtime = runtime
        cost = "a supervisor that comes after this one would not find all workers"
        self._file = KeptFile(runtime / "state.json", cost, folder_mode=_RUNTIME_MODE)
        self._held = Trouble("a second supervisor might use this folder, too")
        self._lock = _take_lock(runtime)
        self._made_again = False

    @property
    def problems(self) -> list[str]:
        """What `status` says of them."""
        return [text for text in (self._held.text, self._file.problem) if text]

    @property
    def ours(self) -> bool:
        """Whether the folder is still the one that we hold."""
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
            self._file.should_be(_ADAPTER.dump_json(state), again=again)

    def keep(self) -> bool:
        """Bring back what is missing; return whether the folder, or the lock in it, was made again since."""
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
        log.warning("%s was removed while this node runs: made again, and what belongs into it", self._runtime)
        return True

    def clear(self) -> None:
        """The node has stopped: nothing is left to adopt."""
        if self.ours:
            self._file.should_be(None)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)


def _take_lock(runtime: Path) -> int:
    """Return the locked descriptor, or raise `VelocityError`: a node runs there already, or no file can be made."""
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
            "another VELOCITY_RUNTIME_DIR would be right for a second one"
        ) from None
    except OSError as error:
        # The lock is what counts; the number in it is for people.
        log.warning("cannot write our process id into %s: %s", path, error.strerror)
    return lock
