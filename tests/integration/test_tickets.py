"""`velocity-edge tickets`: every worker acknowledges each step, a refusal changes nothing, no key is printed.

With fake workers, so without connections: test_rotation.py tests the effect of a rotation on those.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.node import COMMAND
from tests.support.supervised import Supervised, supervised
from velocity_edge.keys.file import FileKeySource
from velocity_edge.keys.table import EpochTable


def tickets(node: Supervised, *argv: str | Path, code: int = 0) -> str:
    """Run `velocity-edge tickets ARGV`; return what it printed."""
    run = subprocess.run(
        [COMMAND, "tickets", *argv], env=node.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == code, run
    return run.stdout + run.stderr


def stored(node: Supervised) -> EpochTable:
    table = FileKeySource(node.directory / "state" / "tickets.json").load()
    assert table is not None
    return table


def roots(*tables: EpochTable) -> list[bytes]:
    return [epoch.root for table in tables for epoch in table.epochs]


def no_key_in_logs(node: Supervised, *tables: EpochTable) -> None:
    written = (node.directory / "log").read_bytes() + (node.directory / "state" / "audit.log").read_bytes()
    import base64

    for root in roots(*tables):
        assert base64.b64encode(root) not in written
        assert root.hex().encode() not in written


def test_list_and_rotate() -> None:
    with supervised(workers=2) as node:
        assert re.search(r"^ +1 +\d.* seals +- +0$", tickets(node, "list"), re.MULTILINE)
        assert tickets(node, "rotate").endswith("epoch 2 seals\n")
        assert json.loads(tickets(node, "rotate", "--move", "--json").splitlines()[-1])["ok"] is True
        listed = json.loads(tickets(node, "list", "--json"))
        assert [(row["epoch"], row["state"]) for row in listed["epochs"]] == [(3, "seals"), (2, "opens"), (1, "opens")]
        assert "root" not in json.dumps(listed)
        shown = tickets(node, "list").splitlines()
        assert shown[0].split() == ["epoch", "age", "state", "opens", "until", "connections"]
        assert re.fullmatch(r" +2 +\S.*  opens  20\d\d-\d\d-\d\d \d\d:\d\dZ, \S.* +0", shown[2])


def test_expiry_rotates_first_and_expired_epochs_open_nothing() -> None:
    with supervised(workers=2) as node:
        node.post("tickets/rotate")
        said = tickets(node, "expire", "--all")
        assert said.splitlines()[-1].endswith("epochs 1, 2 are expired; no connection uses an earlier one")
        table = stored(node)
        # Their connection IDs still decode for some time.
        assert (table.seal_with, table.closed, table.cid_live) == (3, (2, 1), (3, 2, 1))
        assert [row["state"] for row in node.status()["keys"]["epochs"]] == ["seals", "closed", "closed"]
        # A second call expires the present epochs.
        tickets(node, "expire", "--epoch", "2")
        assert stored(node).seal_with == 3
        assert "cannot expire epoch 99: this node has epochs 1, 2, 3" in tickets(
            node, "expire", "--epoch", "99", code=5
        )
        assert "no epoch is that old" in node.post("tickets/expire", older_than_s=3600)[1]["error"]
        assert "expected one of --all" in tickets(node, "expire", code=2)
        assert stored(node) == table
        # The next supervisor knows it, too.
        node.process.kill()
        node.process.wait()
        node.start()
        assert [row["state"] for row in node.wait_for_serving()["keys"]["epochs"]] == ["seals", "closed", "closed"]


def test_encrypted_backup_can_be_imported_on_another_node(tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    with supervised(workers=1) as node, supervised(workers=2) as other:
        for _ in range(2):
            node.post("tickets/rotate")
        node.post("tickets/expire", epoch=1)
        mine = stored(node)
        backup = tmp_path / "backup"
        assert "cannot ask for a passphrase" in tickets(node, "export", "--out", backup, code=5)
        assert "exported epochs 1, 2, 3" in tickets(node, "export", "--out", backup, "--passphrase-file", secret)
        assert backup.stat().st_mode & 0o777 == 0o600
        assert "it exists; expected a name that does not" in tickets(node, "export", "--out", backup, code=5)

        # The other node has an epoch 1 of its own.
        its = stored(other)
        refusal = tickets(other, "import", backup, "--passphrase-file", secret, code=5)
        assert "epoch 1 of the file and of this node are different keys; `tickets import --replace`" in refusal
        assert stored(other) == its
        no_key_in_logs(node, mine)
        no_key_in_logs(other, mine, its)


def test_imported_epochs_open_and_do_not_seal(tmp_path: Path) -> None:
    with supervised(workers=1) as node, supervised(workers=2) as other:
        node.post("tickets/rotate")
        # A node whose epochs have other numbers.
        other.process.terminate()
        assert other.ended() == 0
        path = other.directory / "state" / "tickets.json"
        before = stored(other)
        epoch = before.epochs[0]
        moved = EpochTable((type(epoch)(epoch=5, created_s=epoch.created_s, root=epoch.root),), 5)
        FileKeySource(path).store(moved)
        other.start()
        other.wait_for_serving()
        assert "NOT encrypted" in tickets(node, "export", "--plain", "--out", tmp_path / "plain")
        said = tickets(other, "import", tmp_path / "plain")
        assert "this node has all of them already" in tickets(other, "import", tmp_path / "plain")
        assert "epochs 1, 2 imported; epoch 5 seals as before" in said
        table = stored(other)
        assert (table.numbers, table.seal_with, table.cid_live) == ((5, 2, 1), 5, (5,))
        assert set(roots(stored(node))) < set(roots(table))
        no_key_in_logs(other, table)


@pytest.mark.slow
def test_import_replace_makes_the_imported_keys_seal(tmp_path: Path) -> None:
    """The hardest case: both have an epoch 1, and both seal with it."""
    with supervised(workers=1) as node, supervised(workers=2, server__limits__idle_timeout="1s") as other:
        tickets(node, "export", "--plain", "--out", tmp_path / "plain")
        said = tickets(other, "import", "--replace", tmp_path / "plain", "--timeout", "40s")
        assert "epoch 2 seals meanwhile: epoch 1 collides with the file" in said
        assert said.splitlines()[-1].endswith("epoch 1 of the file seals, epoch 1 imported")
        table = stored(other)
        assert (table.seal_with, table.announced) == (1, 0)
        assert table.sealing.root == stored(node).sealing.root
        assert set(table.numbers) - set(table.closed) == {1}
        # After an interruption a repeated call is no error, and rotations continue.
        assert "epoch 1 of the file seals" in tickets(other, "import", "--replace", tmp_path / "plain")
        assert "seals" in tickets(other, "rotate")
        no_key_in_logs(other, table)


def test_refusal_is_the_last_line() -> None:
    """Seven epochs are in use: expiring them all needs an eighth, for which there is no room in time."""
    with supervised(workers=1) as node:
        for number in range(2, 8):
            assert node.post("tickets/rotate")[1][-1]["text"] == f"epoch {number} seals"
        code, answer = node.post("tickets/rotate")
        assert (code, answer["error"].split(";")[0]) == (
            409,
            "cannot rotate keys: epoch 8 needs the connection IDs of epoch 1, which are in use",
        )
        code, lines = node.post("tickets/expire", all=True, timeout_s=0.5)
        assert (code, lines[-1]["ok"], lines[-1]["exit_code"]) == (200, False, 4)
        assert "on epoch 1; they go on until they end: run this again to wait" in lines[-1]["text"]
        assert stored(node).closed == (), "nothing is expired as long as what seals cannot be replaced"


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    with supervised(workers=1) as node:
        (tmp_path / "junk").write_text("junk")
        assert "not a file of `tickets export`" in tickets(node, "import", tmp_path / "junk", code=5)
        assert "No such file" in tickets(node, "import", tmp_path / "nothing", code=5)
        for body in ({}, {"document": {}}, {"document": "x"}, {"document": {"version": 1, "epochs": [1]}}):
            code, answer = node.post("tickets/import", **body)
            assert code == 409
            assert answer["error"].startswith("document: cannot read the keys")
        assert node.post("tickets/expire", all=True, epoch=1)[0] == 400
        assert node.request("GET", "tickets/export")[0] == 405
        assert node.status()["keys"]["seal_with"] == 1
