"""Invariant: no command prints control characters of text that comes from clients, servers or operators."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.pretend_admin import pretend_admin, sample_status
from velocity_edge.cli import main
from velocity_edge.cli.client import _handshake_lines
from velocity_edge.cli.output import show, show_json
from velocity_edge.cli.status import screen
from velocity_edge.client.facts import CertificateFacts, HandshakeFacts

EVIL = "x\x1b[2J\x1b]0;pwned\x07\nvelocity-edge: drained, lost=0\r\n.example\u202e\x9b1m\udcff"
CLI = Path(__file__).parents[4] / "velocity_edge" / "cli"


def harmless(text: str) -> None:
    assert all(line.isprintable() for line in text.removesuffix("\n").split("\n")), repr(text)
    assert not re.search(r"^velocity-edge: drained", text, re.MULTILINE)


def test_only_output_py_prints() -> None:
    for path in CLI.glob("*.py"):
        if path.name != "output.py":
            assert not re.search(r"click\.s?echo\(|(?<![\w.])print\(", path.read_text()), path.name


def test_lines_and_json_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    show(EVIL, "second", err=True)
    show_json({"site": EVIL, "count": 1})
    out, err = capsys.readouterr()
    harmless(err)
    assert err.splitlines()[1] == "second"
    harmless(out)
    assert json.loads(out) == {"site": EVIL, "count": 1}


def _with_evil(value: Any) -> Any:
    """Return *value* with control characters in every string, except those that commands decide by."""
    if isinstance(value, dict):
        return {key: each if key in ("state", "phase") else _with_evil(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_evil(each) for each in value]
    return value + EVIL if isinstance(value, str) else value


def test_answers_of_a_node_are_printable_in_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VELOCITY_RUNTIME_DIR", str(tmp_path))
    with pretend_admin(tmp_path / "admin.sock") as node:
        node.answers["/v1/status"] = _with_evil(sample_status())
        said = [{"text": EVIL}, {"text": f"drained{EVIL}", "left": [{"site": EVIL}], "exit_code": 0}]
        node.answers |= {f"/v1/{verb}": said for verb in ("quiesce", "drain", "resume", "restart", "stop")}
        node.answers["/v1/reload"] = (409, {"error": f"cannot reload: {EVIL}"})
        for command in (
            "status",
            "status --json",
            "health",
            "health --json",
            "admin quiesce --wait",
            "admin quiesce --wait --json",
            "admin drain",
            "admin resume",
            "admin restart",
            "admin stop",
            "admin reload",
        ):
            with pytest.raises(SystemExit):
                main(command.split())
            out, err = capsys.readouterr()
            harmless(out)
            harmless(err)
            assert "pwned" in out + err or command == "health --json"
        coloured = screen(_with_evil(sample_status()), 0.0, colour=True)
        harmless(re.sub(r"\x1b\[\d+m", "", coloured))


def test_names_in_certificates_of_a_server_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    certificate = CertificateFacts(EVIL, EVIL, [EVIL], EVIL, 3, EVIL, EVIL)
    facts = HandshakeFacts(EVIL, EVIL, True, EVIL, EVIL, False, False, False, False, [certificate])
    show(*_handshake_lines(facts))
    show_json(facts.as_json())
    harmless(capsys.readouterr().out)
