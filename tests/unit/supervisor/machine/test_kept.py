"""A file that cannot be written is logged once and retried, and does not affect the node otherwise."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.machine.kept import RETRY_S, KeptFile
from supervisor.machine.keyring import Keyring
from supervisor.succession import state_file as state
from supervisor.succession.state_file import StateFile
from tests.unit.supervisor.succession.test_state_file import saved
from velocity_edge import atomic_file
from velocity_edge.config.tickets import Tickets
from velocity_edge.errors import CannotDo, ConfigError, VelocityError
from velocity_edge.keys.file import FileKeySource

REASONS = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT, errno.EDQUOT, errno.EMFILE]
#: Where a replacement can fail: opening, writing out, renaming.
CALLS = ["open", "fsync", "rename"]


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="break_disk")
def _break_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Callable[[], None]]:
    def begin(call: str, number: int) -> Callable[[], None]:
        def fails(*_: object, **__: object) -> object:
            raise OSError(number, os.strerror(number))

        if call == "rename":
            monkeypatch.setattr(Path, "replace", fails)
        else:
            monkeypatch.setattr(atomic_file.os, call, fails)
        return monkeypatch.undo

    return begin


@pytest.mark.parametrize("number", REASONS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", CALLS)
def test_a_failure_is_logged_once_and_retried(
    tmp_path: Path,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    break_disk: Callable[[str, int], Callable[[], None]],
    call: str,
    number: int,
) -> None:
    caplog.set_level(logging.INFO)
    file = KeptFile(tmp_path / "state.json", "a successor would not know", sync=True, clock=clock)
    assert file.should_be(b"one") == ""
    repair = break_disk(call, number)
    for content in (b"two", b"three", b"three"):
        assert file.should_be(content) == f"cannot write {file.path}: {os.strerror(number)}"
        clock.now_s += 0.1
    assert len(caplog.records) == 1
    assert os.strerror(number) in file.problem
    assert "a successor would not know" in file.problem
    assert file.path.read_bytes() == b"one"
    repair()
    file.retry()
    assert file.path.read_bytes() == b"one", "not retried at once"
    clock.now_s += RETRY_S
    file.retry()
    assert (file.path.read_bytes(), file.problem) == (b"three", "")
    assert "works again" in caplog.records[-1].message
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_failed_removal_is_retried(tmp_path: Path, clock: Clock) -> None:
    file = KeptFile(tmp_path / "disabled", "routes stay away", clock=clock)
    file.path.mkdir()
    (file.path / "x").touch()
    assert file.should_be(None).startswith("cannot remove")
    assert file.behind
    shutil.rmtree(file.path)
    clock.now_s += RETRY_S
    assert file.retry() == ""
    assert not file.behind


def test_a_folder_that_was_removed_is_made_again_with_its_mode(tmp_path: Path) -> None:
    file = KeptFile(tmp_path / "run" / "x", "", folder_mode=0o755)
    os.umask(before := os.umask(0o022))
    file.should_be(b"1")
    assert file.path.parent.stat().st_mode & 0o777 == 0o755 & ~before
    shutil.rmtree(file.path.parent)
    file.restore()
    assert file.path.read_bytes() == b"1"


def test_restore_writes_only_a_wanted_file_that_has_changed(tmp_path: Path) -> None:
    file = KeptFile(tmp_path / "x", "")
    file.restore()
    assert not file.path.exists()
    file.should_be(b"1")
    inode = file.path.stat().st_ino
    file.restore()
    assert file.path.stat().st_ino == inode


def test_a_file_that_is_given_up_is_not_degraded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = KeptFile(tmp_path / "file" / "x", "")
    assert file.should_be(b"1")
    file.give_up()
    assert (file.problem, file.behind) == ("", False)


# --- the lock and the state


def locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_a_removed_runtime_directory_is_locked_again(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o755)
    file = StateFile(runtime)
    file.save(saved())
    assert not file.keep()
    shutil.rmtree(runtime)
    file.save(saved(revision=2))
    assert locked(runtime / "supervisor.lock")
    assert file.load() == saved(revision=2)
    assert file.keep(), "reported once, for the other files in the directory"
    shutil.rmtree(runtime)
    assert file.keep()
    assert not file.keep()
    assert locked(runtime / "supervisor.lock")
    assert file.load() == saved(revision=2)
    with pytest.raises(VelocityError, match="a node runs in"):
        StateFile(runtime)
    file.clear()
    file.close()
    assert [path.name for path in runtime.iterdir()] == ["supervisor.lock"]


def test_a_runtime_directory_that_another_supervisor_locked_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o755)
    file = StateFile(runtime)
    file.save(saved())
    shutil.rmtree(runtime)
    runtime.mkdir(mode=0o755)
    other = StateFile(runtime)
    other.save(saved(revision=9))
    for _ in range(3):
        file.save(saved(revision=2))
        assert not file.keep()
    file.clear()
    assert other.load() == saved(revision=9)
    assert "a node runs in" in file.problems[0]
    assert len([r for r in caplog.records if "cannot hold" in r.message]) == 1
    other.close()
    file.save(saved(revision=3))
    assert file.problems == []
    assert other.load() == saved(revision=3)
    file.close()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EISDIR])
def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(state.os, "open", fails)
    with pytest.raises(VelocityError, match=f"^cannot start: {tmp_path}/supervisor.lock: .*{os.strerror(number)}"):
        StateFile(tmp_path)


# --- the keys


def test_keys_that_cannot_be_stored_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring.open(Tickets(), tmp_path, 0.0)
    before, store = ring.table, FileKeySource.store
    full = ConfigError("tickets.json: cannot store the keys: No space left on device")

    def fails(*_: object) -> None:
        raise full

    monkeypatch.setattr(FileKeySource, "store", fails)
    with pytest.raises(CannotDo, match=r"cannot change the keys: .*No space left"):
        ring.announce(Tickets(), 1.0)
    assert ring.table == before
    monkeypatch.setattr(FileKeySource, "store", store)
    ring.retry()
    assert ring.source.load() == before
    number = ring.announce(Tickets(), 1.0)
    # All workers have agreed: the switch applies, whether it can be stored or not.
    monkeypatch.setattr(FileKeySource, "store", fails)
    ring.follow(number, ring.epochs)
    assert ring.table.seal_with == number
    assert "No space left" in ring.problem
    assert ring.source.load().announced == number  # type: ignore[union-attr]
    monkeypatch.setattr(FileKeySource, "store", store)
    ring.retry()
    assert (ring.source.load(), ring.problem) == (ring.table, "")
