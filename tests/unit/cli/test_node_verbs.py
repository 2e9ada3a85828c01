"""Invariant: verbs that talk to a node say what it answered, and end with the code of how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pretend_admin import PretendAdmin, pretend_admin, sample_status
from velocity_edge.cli import main
from velocity_edge.cli.banner import banner
from velocity_edge.cli.health import verdict
from velocity_edge.cli.status import screen
from velocity_edge.cli.units import count, duration, size


@pytest.fixture(name="node")
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendAdmin]:
    monkeypatch.setenv("VELOCITY_RUNTIME_DIR", str(tmp_path))
    with pretend_admin(tmp_path / "admin.sock") as admin:
        admin.answers["/v1/status"] = sample_status()
        yield admin


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_status_is_one_screen_without_colour(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert "\x1b" not in out
    assert len(out.splitlines()) <= 24
    assert out.splitlines()[0].startswith("serving  0.0.0.0:4433  tier B: eBPF on the sockets  up ")
    assert "for the next tier: no interface is named" in out
    assert "90.0 % post-quantum: X25519MLKEM768 900, classical 100" in out
    assert "delivered 530, dropped_malformed 2" in out


def test_status_as_json_is_what_the_node_said(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "status", "--json")
    assert (code, json.loads(out)) == (0, sample_status())


def test_degraded_and_expired_are_seen() -> None:
    found = sample_status()
    found["degraded"] = ["the receive buffer is small"]
    found["last_reload"] = {"revision": 4, "ok": False, "reason": "s.yaml:1:1: cannot", "at_s": 1_000_000.0}
    text = screen(found, 1_000_000.0 + 91 * 86400)
    assert "DEGRADED: the receive buffer is small" in text
    assert "HAS EXPIRED" in text
    assert "was refused: s.yaml:1:1: cannot (revision 4)" in text


@pytest.mark.parametrize(
    ("state", "degraded", "live", "code"),
    [
        ("serving", [], False, 0),
        ("serving", ["x"], False, 6),
        ("quiesced", [], False, 1),
        ("quiesced", [], True, 0),
        ("starting", ["x"], True, 6),
    ],
)
def test_health_is_a_code(state: str, degraded: list[str], live: bool, code: int) -> None:
    found = sample_status()
    found["state"], found["degraded"] = state, degraded
    assert verdict(found, live=live)[0] == code


def test_health_counts_active_connections(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "health") == (0, "serving, 2403 active connections\n", "")
    _, out, _ = run(capsys, "health", "--json")
    assert json.loads(out)["active_connections"] == 2403


def test_admin_verbs_ask_and_repeat_the_answer(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/quiesce"] = [{"text": "quiescing"}, {"text": "quiesced", "ok": True}]
    code, out, _ = run(capsys, "admin", "quiesce", "--mode", "immediate", "--deadline", "1h", "--reason", "CHG-1")
    assert (code, out) == (0, "quiescing\nquiesced\n")
    assert node.asked == [("POST", "/v1/quiesce", {"mode": "immediate", "deadline_s": 3600.0, "reason": "CHG-1"})]


def test_a_result_that_is_not_ok_is_a_failure(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/reload"] = [{"text": "cannot use s.yaml", "ok": False}]
    assert run(capsys, "admin", "reload")[:2] == (1, "cannot use s.yaml\n")


@pytest.mark.parametrize(("status", "code"), [(409, 5), (403, 5), (500, 1)])
def test_a_refusal_is_the_nodes_sentence(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    node.answers["/v1/restart"] = (status, {"error": "cannot restart: a rollout is under way"})
    assert run(capsys, "admin", "restart") == (code, "", "velocity-edge: cannot restart: a rollout is under way\n")


def test_drain_waits_for_connections_to_go(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velocity_edge.cli.admin._POLL_S", 0.01)
    left = iter([50, 20, 20, 0])

    def status() -> object:
        found = sample_status()
        found["state"] = "quiesced"
        found["workers"] = found["workers"][:1]
        found["workers"][0]["connections"] = next(left)
        return found

    node.answers["/v1/quiesce"] = {"text": "quiescing"}
    node.answers["/v1/status"] = status
    code, out, _ = run(capsys, "admin", "drain")
    assert code == 0
    assert [line.split("  ")[1].split(",")[0] for line in out.splitlines()[1:]] == [
        "50 connections left",
        "20 connections left",
        "0 connections left",
    ]


def test_a_wait_that_is_over_names_who_is_left_and_the_next_command(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["/v1/quiesce"] = {"text": "quiescing"}
    node.answers["/v1/status"] = sample_status() | {"state": "quiesced"}
    code, _, err = run(capsys, "admin", "quiesce", "--wait", "--timeout", "0s")
    assert code == 4
    assert "2 403 connections are left (worker 1: 1201, worker 2: 1202)" in err
    assert "velocity-edge admin" in err


def test_a_wait_ends_when_somebody_resumes(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/quiesce"] = {"text": "quiescing"}
    code, out, _ = run(capsys, "admin", "quiesce", "--wait")
    assert code == 1
    assert "serves again" in out


def test_the_banner_says_where_how_and_what_to_try() -> None:
    text = banner(sample_status())
    for part in (
        "https://0.0.0.0:4433/ (UDP, HTTP/3)",
        "tier B: eBPF on the sockets",
        "for the next tier: no interface is named",
        "portable, 2 workers (the native engine is not here)",
        "X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024, x25519",
        "SHA-256 AB:AB:",
        "velocity-edge client get --insecure https://localhost:4433/",
        "curl --http3-only --insecure https://localhost:4433/",
        "velocity-edge status",
    ):
        assert part in text


def test_numbers_for_people() -> None:
    assert [duration(s) for s in (0.04, 12, 185, 7620, 443000)] == [
        "0.0 s",
        "12 s",
        "3 min 05 s",
        "2 h 07 min",
        "5 d 03 h",
    ]
    assert [size(n) for n in (0, 1023, 1024, 5 * 2**20, 300 * 2**20, 5 * 2**30)] == [
        "0 B", "1023 B", "1 KiB", "5.0 MiB", "300 MiB", "5.0 GiB",
    ]  # fmt: skip
    assert count(1234567) == "1 234 567"
