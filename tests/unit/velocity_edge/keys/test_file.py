"""A stored table is read again as it was, is private to its user, and is refused when it is not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.epoch_tables import DAY, root, table
from velocity_edge.errors import ConfigError
from velocity_edge.keys import rotation
from velocity_edge.keys.document import DamagedKeys
from velocity_edge.keys.file import FileKeySource
from velocity_edge.keys.table import first_table


def test_a_stored_table_is_loaded_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tickets.json"
    assert FileKeySource(path).load() is None
    rich = rotation.close(rotation.announce(rotation.merge(table(3, 4, 5), table(9).epochs), root(10), 0.0, DAY), [4])
    for stored in (table(1), table(3, 4, 5, seal=4), rich):
        FileKeySource(path).store(stored)
        assert FileKeySource(path).load() == stored
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["tickets.json"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        FileKeySource(tmp_path / "t.json").store(table(1))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "t.json").stat().st_mode) == 0o600


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    FileKeySource(path).store(table(1))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"cannot trust keys that others can read \(mode 0640\): chmod 600 it"):
        FileKeySource(path).load()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        (b"[]", "expected version 1"),
        (b'{"version": 2}', "expected version 1"),
        (b'{"version": 1}', "a field is missing or wrong (KeyError)"),
        (b'{"version": 1, "seal_with": 1, "epochs": []}', "0 epochs, expected 1 to 16"),
        (b'{"version": 1, "seal_with": 1, "epochs": [{"epoch": 1, "created_s": 0, "root": "AAAA"}]}', "32 bytes"),
        (b'{"version": 1, "seal_with": 1, "epochs": [{"epoch": 1, "created_s": 0, "root": "??"}]}', "(Error)"),
        (b'{"version": 1, "seal_with": 1e999, "epochs": [{"epoch": 1}]}', "cannot read the keys"),
        (b"x" * 70_000, "larger than 65536 bytes"),
    ],
)
def test_a_damaged_file_is_refused_and_can_be_set_aside(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        FileKeySource(path).load()
    assert str(path) in str(caught.value)
    assert "cannot read the keys" in str(caught.value)
    assert reason in str(caught.value)
    assert Path(FileKeySource(path).set_aside()).read_bytes() == content
    assert FileKeySource(path).load() is None


def test_a_failed_store_is_an_error_and_a_missing_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot store the keys: Not a directory"):
        FileKeySource(tmp_path / "file" / "t.json").store(table(1))
    # A folder that was removed is made again.
    FileKeySource(tmp_path / "nowhere" / "t.json").store(table(1))
    assert FileKeySource(tmp_path / "nowhere" / "t.json").load() == table(1)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    FileKeySource(tmp_path / "t.json").store(table(1))
    (tmp_path / "link").symlink_to(tmp_path / "t.json")
    with pytest.raises(ConfigError, match="cannot read the keys"):
        FileKeySource(tmp_path / "link").load()


@pytest.mark.parametrize("when", ["NaN", "1e999", "-Infinity"])
def test_keys_with_a_creation_time_that_is_not_finite_are_damaged(tmp_path: Path, when: str) -> None:
    FileKeySource(tmp_path / "t.json").store(first_table(bytes(32), 5.0))
    content = (tmp_path / "t.json").read_text().replace('"created_s": 5.0', f'"created_s": {when}')
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DamagedKeys, match="the creation time of epoch 1 is not finite"):
        FileKeySource(tmp_path / "t.json").load()
