"""`password NAME` prints an entry that verifies the password of standard input, and never the password."""

from __future__ import annotations

import io
from typing import Any

import pytest

from velocity_edge.cli import main
from velocity_edge.http.passwords import parse_file

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


def run(monkeypatch: Patch, capsys: Capture, name: str, typed: bytes) -> tuple[Any, str, str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed)))
    with pytest.raises(SystemExit) as ended:
        main(["password", name])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_the_entry_verifies_the_password(monkeypatch: Patch, capsys: Capture) -> None:
    code, out, err = run(monkeypatch, capsys, "alice", b"s3cret\nmore\n")
    assert (code, err) == (0, "")
    assert "s3cret" not in out
    users = parse_file(out.encode())
    assert users["alice"].verifies(b"s3cret")
    assert run(monkeypatch, capsys, "alice", b"s3cret\n")[1] != out, "with another salt"


@pytest.mark.parametrize(("name", "typed"), [("a:b", b"x\n"), ("alice", b"\n"), ("alice", b""), ("a", b"x" * 2000)])
def test_what_makes_no_entry_is_an_error(monkeypatch: Patch, capsys: Capture, name: str, typed: bytes) -> None:
    code, out, err = run(monkeypatch, capsys, name, typed)
    assert (code, out) == (5, "")
    assert err.startswith("velocity-edge: cannot use")
