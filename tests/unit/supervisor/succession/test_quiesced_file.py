"""An operator's quiesce outlives the node, until a reboot or a stop by an operator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.node.drain_contract import Contract, Phase, Terms
from supervisor.node.happenings import Quiesce, QuiesceMode, Started
from supervisor.node.node import Node
from supervisor.node.state import Settings
from supervisor.succession.quiesced_file import QuiescedFile

WISH = Quiesce(QuiesceMode.IMMEDIATE, "CHG-1", 1.0, 2.0, 3.0, 4.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "quiesced-main.json"


def node(wish: Quiesce | None, contract: Contract | None = None) -> Node:
    made = Node(Settings(1), target=1)
    made.quiesced, made.contract = wish, contract
    return made


def test_a_quiesce_is_restored_and_a_resume_ends_it(file: Path) -> None:
    drained = Contract(Terms(reason="CHG-1"), 5.0, Phase.DRAINED)
    kept = QuiescedFile(file)
    kept.keep(node(WISH, drained))
    assert file.stat().st_mode & 0o777 == 0o600
    started = QuiescedFile(file).load()
    assert started.quiesced == WISH
    assert started.contract is not None
    assert (started.contract.phase, started.contract.terms) == (Phase.DRAINED, drained.terms)
    kept.keep(node(None, drained))
    assert QuiescedFile(file).load() == Started()
    assert not file.exists()


def test_a_quiesce_is_kept_while_the_node_starts(file: Path) -> None:
    starting = node(None)
    starting.quiesce_first = WISH
    QuiescedFile(file).keep(starting)
    assert QuiescedFile(file).load().quiesced == WISH


def test_the_file_is_removed_when_the_node_is_not_quiesced(file: Path) -> None:
    QuiescedFile(file).keep(node(WISH))
    QuiescedFile(file).keep(node(None))
    assert not file.exists()


def test_a_stop_by_an_operator_and_a_reboot_end_it(file: Path) -> None:
    kept = QuiescedFile(file)
    kept.keep(node(WISH))
    content = json.loads(file.read_text())
    kept.forget()
    assert not file.exists()
    file.write_text(json.dumps({**content, "boot_id": "another"}))
    assert QuiescedFile(file).load() == Started()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"boot_id": 5, "quiesced": []}'])
def test_a_damaged_file_is_reported(content: bytes, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(content)
    assert QuiescedFile(file).load() == Started()
    assert f"cannot read {file}" in caplog.text


def test_a_file_that_cannot_be_written_does_not_stop_the_node(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    kept = QuiescedFile(tmp_path / "file" / "quiesced.json")
    kept.keep(node(WISH))
    assert "cannot write" in caplog.text
    assert "would not know whether it was quiesced" in kept.problem
