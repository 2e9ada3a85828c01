"""The loss of keys is always reported: a damaged file ends the start or is set aside; a missing one is logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.machine import key_history
from supervisor.machine.keyring import Keyring, check_keys
from velocity_edge.config.tickets import Tickets
from velocity_edge.errors import CannotDo, ConfigError
from velocity_edge.keys.file import FileKeySource

REFUSE = Tickets()
FRESH = Tickets(on_damage="fresh")


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """The state directory of a node that has rotated once."""
    ring = Keyring.open(REFUSE, tmp_path, 1000.0)
    ring.announce(REFUSE, 2000.0)
    ring.follow(2, {2, 1})
    return tmp_path


def kept(directory: Path) -> list[Path]:
    return sorted(directory.glob("tickets.json.damaged-*"))


def test_a_first_start_makes_keys_and_reports_no_loss(tmp_path: Path) -> None:
    ring = Keyring.open(REFUSE, tmp_path, 1000.0)
    assert (ring.epochs, ring.history.anew_s) == ((1,), None)
    assert Keyring.open(REFUSE, tmp_path, 2000.0).table == ring.table


def test_a_missing_file_is_a_fresh_start_and_is_logged_once(used: Path, caplog: pytest.LogCaptureFixture) -> None:
    (used / "tickets.json").unlink()
    ring = Keyring.open(REFUSE, used, 5000.0)
    # A number that this node never used: a backup can be imported beside it.
    assert ring.epochs == (3,)
    assert (ring.history.anew_s, ring.history.reason) == (5000.0, f"{used}/tickets.json is missing")
    assert "made new keys, starting with epoch 3" in caplog.text
    assert "existing sessions fall back to a full handshake" in caplog.text
    # The next supervisor knows of the loss and does not log it again.
    caplog.clear()
    assert Keyring.open(REFUSE, used, 6000.0).history.anew_s == 5000.0
    assert caplog.text == ""


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 200, b"[]"])
def test_a_damaged_file_ends_the_start(used: Path, content: bytes) -> None:
    (used / "tickets.json").write_bytes(content)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"cannot read the keys: .*; put a backup in its place, or"):
            Keyring.open(REFUSE, used, 5000.0)
    assert (used / "tickets.json").read_bytes() == content
    assert kept(used) == []


def test_a_damaged_file_is_set_aside_when_that_is_configured(used: Path) -> None:
    (used / "tickets.json").write_bytes(b"junk")
    ring = Keyring.open(FRESH, used, 5000.0)
    assert ring.epochs == (3,)
    assert [path.read_bytes() for path in kept(used)] == [b"junk"]
    assert ring.history.reason == f"{used}/tickets.json: cannot read the keys: not JSON; it is kept as {kept(used)[0]}"
    assert FileKeySource(used / "tickets.json").load() == ring.table


def test_a_file_that_others_can_read_is_never_replaced(used: Path) -> None:
    (used / "tickets.json").chmod(0o644)
    with pytest.raises(ConfigError, match="cannot trust keys that others can read"):
        Keyring.open(FRESH, used, 5000.0)


@pytest.mark.parametrize("settings", [REFUSE, FRESH])
def test_new_keys_are_refused_while_workers_run(used: Path, settings: Tickets) -> None:
    """New keys would cut every connection of these workers: the operator decides."""
    (used / "tickets.json").rename(used / "elsewhere")
    with pytest.raises(ConfigError, match=r"cannot go on without the keys that running workers use"):
        Keyring.open(settings, used, 5000.0, living=True)
    assert not (used / "tickets.json").exists()
    with pytest.raises(ConfigError, match=r"cannot go on without the keys"):
        check_keys(settings, used)
    (used / "elsewhere").rename(used / "tickets.json")
    check_keys(settings, used)
    assert Keyring.open(settings, used, 5000.0, living=True).epochs == (2, 1)


def test_a_damaged_history_counts_as_empty(used: Path) -> None:
    for content in ("", "[]", '{"newest": "x"}', '{"newest": -1}', '{"newest": 1e99}'):
        (used / "key-history.json").write_text(content)
        assert key_history.load(used) == key_history.KeyHistory()
        assert Keyring.open(REFUSE, used, 5000.0).epochs == (2, 1)
        assert key_history.load(used).newest == 2


def test_a_rotation_without_a_free_config_id_changes_nothing(tmp_path: Path) -> None:
    ring = Keyring.open(REFUSE, tmp_path, 1000.0)
    for number in range(2, 8):
        assert ring.announce(REFUSE, 1000.0 * number) == number
        ring.follow(number, ring.table.cid_live)
    before = ring.table
    with pytest.raises(CannotDo, match="epoch 8 needs the connection IDs of epoch 1, which are in use"):
        ring.announce(REFUSE, 9000.0)
    assert ring.table == before
    ring.follow(7, {7, 6, 5, 4, 3, 2})
    assert ring.announce(REFUSE, 9000.0) == 8


def test_a_successor_continues_an_announced_rotation(tmp_path: Path) -> None:
    ring = Keyring.open(REFUSE, tmp_path, 1000.0)
    ring.announce(REFUSE, 2000.0)
    successor = Keyring.open(REFUSE, tmp_path, 3000.0)
    assert successor.due(REFUSE, 3000.0)
    assert successor.announce(REFUSE, 3000.0) == 2
    assert successor.table == ring.table
