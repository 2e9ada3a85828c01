"""state.json and its lock: which files are used, and which end the start."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import parameters
from supervisor.machine import key_history, spawn
from supervisor.node.happenings import Started
from supervisor.succession.quiesced_file import QuiescedFile
from supervisor.succession.saved_state import SavedState, SavedWorker
from supervisor.succession.state_file import StateFile, boot_id, orphaned_workers, read_state
from velocity_edge.errors import ConfigError, VelocityError
from velocity_edge.keys.file import FileKeySource
from velocity_edge.wire.messages import Listener

LOOPBACK = Listener("127.0.0.1", 0)


def saved(**changes: object) -> SavedState:
    worker = SavedWorker(7, 0, 0, os.getpid(), spawn.start_ticks(os.getpid()) or 0, False)
    values = {
        "boot_id": boot_id(),
        "cores": 1,
        "cpus": [0],
        "target": 1,
        "next_id": 8,
        "revision": 3,
        "listeners": [LOOPBACK],
        "workers": [worker],
        "departed": [],
        "quiesced": None,
    }
    return SavedState(**(values | changes))  # type: ignore[arg-type]


def test_the_file_outlives_its_writer_and_only_one_process_holds_the_lock(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(saved())
    assert '"listeners":[{"host":"127.0.0.1","port":0}]' in (tmp_path / "state.json").read_text(), "as 0.1.0 writes it"
    with pytest.raises(VelocityError, match=f"process {os.getpid()}"):
        StateFile(tmp_path)
    file.close()
    after = StateFile(tmp_path)
    assert after.load() == saved()
    after.clear()
    assert after.load() is None
    after.close()


def load_changed(directory: Path, **change: object) -> SavedState | None:
    file = StateFile(directory)
    try:
        file.save(saved())
        path = directory / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        return file.load()
    finally:
        file.close()


def test_state_of_another_boot_is_ignored(tmp_path: Path) -> None:
    assert load_changed(tmp_path, boot_id="another boot", version=99) is None


def test_state_with_unknown_fields_is_used(tmp_path: Path) -> None:
    worker = {"worker_id": 7, "core": 0, "slot": 0, "pid": os.getpid(), "leaving": False, "unknown": "field"}
    worker["start_ticks"] = spawn.start_ticks(os.getpid())
    assert load_changed(tmp_path, unknown=1, workers=[worker]) == saved()


def test_state_of_0_1_0_is_used(tmp_path: Path) -> None:
    """The text is what that version wrote, byte for byte; it is never changed."""
    (tmp_path / "state.json").write_text(
        '{"boot_id":"BOOT","cores":1,"cpus":[0],"target":1,"next_id":8,"revision":3,'
        '"listeners":[{"host":"127.0.0.1","port":443}],'
        '"workers":[{"worker_id":7,"core":0,"slot":0,"pid":1,"start_ticks":5,"leaving":false}],'
        '"departed":[{"worker_id":6,"core":0,"slot":1,"until_s":99.5}],'
        '"quiesced":{"mode":"graceful","reason":"r","announce_s":0.0,"spread_s":1.0,"deadline_s":2.0,"since_s":3.0},'
        '"version":1}'.replace("BOOT", boot_id())
    )
    file = StateFile(tmp_path)
    state = file.load()
    file.close()
    assert state
    assert (state.next_id, state.workers[0].worker_id, state.departed[0].slot) == (8, 7, 1)
    assert state.quiesced
    assert state.quiesced.reason == "r"


def test_state_of_an_unknown_version_ends_the_start_while_its_workers_live(tmp_path: Path) -> None:
    with pytest.raises(VelocityError, match=rf"^cannot start: .*version 99.*process {os.getpid()}.* serve on"):
        load_changed(tmp_path, version=99)
    dead = {"pid": os.getpid(), "start_ticks": 1, "unknown": "field"}
    assert load_changed(tmp_path, version=99, workers=[dead]) is None, "no worker is left"


@pytest.mark.parametrize(
    "change", [{"workers": "none"}, {"workers": [{}]}, {"cores": "many"}, {"version": "1"}], ids=str
)
def test_damaged_state_ends_the_start_because_workers_may_live(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(VelocityError, match=r"^cannot start: "):
        load_changed(tmp_path, **change)
    for nonsense in (b"{" * 1000, b"[]", b"", b"\xff"):
        (tmp_path / "state.json").write_bytes(nonsense)
        file = StateFile(tmp_path)
        with pytest.raises(VelocityError, match="is damaged"):
            file.load()
        file.close()


def a_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def a_directory(path: Path) -> None:
    path.mkdir()


def invalid_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0")
    path.chmod(0o600)


def too_deep(path: Path) -> None:
    path.write_bytes(b"[" * 60_000)
    path.chmod(0o600)


@pytest.mark.parametrize("put", [a_fifo, a_directory, invalid_bytes, too_deep])
def test_an_invalid_file_is_an_error_in_one_line_and_does_not_block(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    for name in ("state.json", "tickets.json", "node-id", "key-history.json", "quiesced.json", "supervisor.lock"):
        put(tmp_path / name)
    with pytest.raises(VelocityError, match=r"^cannot start: "):
        read_state(tmp_path)
    assert orphaned_workers(tmp_path) == []
    with pytest.raises(ConfigError, match="cannot read the keys"):
        FileKeySource(tmp_path / "tickets.json").load()
    with pytest.raises(ConfigError, match=r"^cannot "):
        parameters.kept_node_id(tmp_path)
    assert key_history.load(tmp_path) == key_history.KeyHistory()
    assert QuiescedFile(tmp_path / "quiesced.json").load() == Started()
