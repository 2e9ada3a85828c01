"""An operator's quiesce outlives the node, in this boot and not a stop by a person: the file says what is so."""

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


def test_a_wish_comes_back_as_it_was_and_a_resume_ends_it(file: Path) -> None:
    drained = Contract(Terms(reason="CHG-1"), 5.0, Phase.DRAINED)
    remembered = QuiescedFile(file)
    remembered.keep(node(WISH, drained))
    assert file.stat().st_mode & 0o777 == 0o600
    started = QuiescedFile(file).load()
    assert started.quiesced == WISH
    assert started.contract is not None
    assert (started.contract.phase, started.contract.terms) == (Phase.DRAINED, drained.terms)
    remembered.keep(node(None, drained))
    assert QuiescedFile(file).load() == Started()
    assert not file.exists()


def test_a_node_that_starts_quiesced_is_remembered_before_it_is(file: Path) -> None:
    starting = node(None)
    starting.quiesce_first = WISH
    QuiescedFile(file).keep(starting)
    assert QuiescedFile(file).load().quiesced == WISH


def test_what_a_node_finds_is_removed_when_it_is_not_so(file: Path) -> None:
    QuiescedFile(file).keep(node(WISH))
    QuiescedFile(file).keep(node(None))
    assert not file.exists()


def test_a_person_who_stops_the_node_and_a_reboot_forget_it(file: Path) -> None:
    remembered = QuiescedFile(file)
    remembered.keep(node(WISH))
    content = json.loads(file.read_text())
    remembered.forget()
    assert not file.exists()
    file.write_text(json.dumps({**content, "boot_id": "another"}))
    assert QuiescedFile(file).load() == Started()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"boot_id": 5, "quiesced": []}'])
def test_a_damaged_file_is_said(content: bytes, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(content)
    assert QuiescedFile(file).load() == Started()
    assert f"cannot read {file}" in caplog.text


def test_a_file_that_cannot_be_written_does_not_stop_the_node(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    remembered = QuiescedFile(tmp_path / "file" / "quiesced.json")
    remembered.keep(node(WISH))
    assert "cannot write" in caplog.text
    assert "would not know whether it was quiesced" in remembered.problem
