"""Invariant: verbs that talk to a node say what it answered, and end with the code of how it ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pretend_admin import PretendAdmin, pretend_admin, sample_status
from velocity_edge.cli import main
from velocity_edge.cli.health import verdict
from velocity_edge.cli.status import screen
from velocity_edge.cli.units import count, duration, size
from velocity_edge.cli.upgrade import judge
from velocity_edge.status.banner import banner
from velocity_edge.status.document import NodeStatus


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
    assert "not tier C (xdp): no interface is named" in out
    assert "90.0 % post-quantum: X25519MLKEM768 900, classical 100" in out
    assert "delivered 530, dropped_malformed 2" in out


def test_status_as_json_is_what_the_node_said(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "status", "--json")
    assert (code, json.loads(out)) == (0, sample_status())


def test_degraded_and_expired_are_seen() -> None:
    found = sample_status()
    found["degraded"] = ["the receive buffer is small"]
    found["last_reload"] = {
        "revision": 4, "ok": False, "reason": "s.yaml:1:1: cannot", "at_s": 1_000_000.0, "took_s": 0.1
    }  # fmt: skip
    text = screen(found, 1_000_000.0 + 91 * 86400)
    assert "DEGRADED: the receive buffer is small" in text
    assert "HAS EXPIRED" in text
    assert "was refused: s.yaml:1:1: cannot (revision 4)" in text


def test_pressure_is_seen_and_is_no_fault_of_the_node() -> None:
    found = sample_status()
    found["pressure"] = [
        {
            "rule": "retry",
            "text": "new clients must validate",
            "since_at_s": 1_000_000.0,
            "per_s": 1380.4,
            "total": 16560,
        }
    ]
    line = "PRESSURE: new clients must validate: 1 380/s for 12 s, 16 560 in all (retry)"
    assert line in screen(found, 1_000_012.0).splitlines()
    assert verdict(found)[0] == 0


@pytest.mark.parametrize(
    ("state", "degraded", "options", "code"),
    [
        ("serving", [], {}, 0),
        ("serving", ["x"], {}, 6),
        ("serving", [], {"ready": True}, 0),
        ("quiescing", [], {}, 0),
        ("quiesced", [], {}, 0),
        ("quiesced", ["x"], {}, 6),
        ("quiesced", [], {"ready": True}, 1),
        ("starting", [], {}, 1),
        ("starting", ["x"], {"live": True}, 6),
        ("stopping", [], {"live": True}, 0),
    ],
)
def test_health_is_a_code(state: str, degraded: list[str], options: dict[str, bool], code: int) -> None:
    found = sample_status()
    found["state"], found["degraded"] = state, degraded
    assert verdict(found, **options)[0] == code


def test_health_counts_active_connections(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "health") == (0, "serving, 2403 active connections\n", "")
    _, out, _ = run(capsys, "health", "--json")
    assert json.loads(out)["active_connections"] == 2403


DONE = {"text": "done", "ok": True, "exit_code": 0}


def texts(out: str) -> list[str]:
    return [line.split("  ", 1)[1] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        ("quiesce", "quiesce", {"mode": "graceful", "announce_s": 0.0, "spread_s": 10.0, "deadline_s": 86400.0}),
        (
            "quiesce --mode immediate --deadline 1h --wait --below 5 --timeout 2m",
            "quiesce",
            {
                "mode": "immediate",
                "announce_s": 0.0,
                "spread_s": 10.0,
                "deadline_s": 3600.0,
                "wait": True,
                "below": 5,
                "timeout_s": 120.0,
            },
        ),
        ("drain", "drain", {"settle_s": 30.0, "settle_below_per_s": 1.0, "max_wait_s": 900.0}),
        (
            "drain --settle 5s --settle-below 0.5 --announce-max 1m --spread 20s --max-wait 5m --dry-run",
            "drain",
            {
                "settle_s": 5.0,
                "settle_below_per_s": 0.5,
                "announce_max_s": 60.0,
                "spread_s": 20.0,
                "max_wait_s": 300.0,
                "dry_run": True,
            },
        ),
        ("resume", "resume", {}),
        ("restart", "restart", {}),
        ("restart --worker 17", "restart", {"worker_id": 17}),
        ("reload", "reload", {}),
        ("abort --age 2m", "abort", {"age_s": 120.0}),
        ("scale 3", "scale", {"workers": 3}),
        ("stop --fast", "stop", {"fast": True}),
    ],
)
def test_admin_verbs_ask_and_repeat_the_answer(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], arguments: str, path: str, body: dict[str, object]
) -> None:
    node.answers[f"/v1/{path}"] = [{"text": "under way"}, DONE]
    code, out, _ = run(capsys, "admin", *arguments.split(), "--reason", "CHG-1")
    assert (code, texts(out)) == (0, ["under way", "done"])
    assert node.asked == [("POST", f"/v1/{path}", body | {"reason": "CHG-1"})]


def test_who_gives_no_reason_is_named(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/resume"] = [DONE]
    run(capsys, "admin", "resume")
    assert node.asked[0][2]["reason"].startswith("by ")


@pytest.mark.parametrize("code", [1, 4])
def test_the_last_line_is_the_exit_code(node: PretendAdmin, capsys: pytest.CaptureFixture[str], code: int) -> None:
    node.answers["/v1/drain"] = [{"text": "3 left"}, {"text": "3 are left", "ok": False, "exit_code": code}]
    ended, out, _ = run(capsys, "admin", "drain")
    assert (ended, texts(out)) == (code, ["3 left", "3 are left"])
    assert [json.loads(line)["text"] for line in run(capsys, "admin", "drain", "--json")[1].splitlines()] == texts(out)


def test_an_answer_without_an_end_is_a_failure(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/restart"] = [{"text": "under way"}]
    assert run(capsys, "admin", "restart")[0] == 1


def test_a_node_that_says_nothing_any_more_is_left_alone(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr("velocity_edge.cli.asking._SLACK_S", 0.05)
    node.answers["/v1/restart"] = lambda: over.wait(10) and [DONE]
    code, _, err = run(capsys, "admin", "restart", "--timeout", "0s")
    over.set()
    assert code == 4
    assert err == "velocity-edge: cannot wait longer than 0.05 s: the node goes on; see `velocity-edge status`\n"


@pytest.mark.parametrize(("status", "code"), [(409, 5), (403, 5), (500, 1)])
def test_a_refusal_is_the_nodes_sentence(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    node.answers["/v1/restart"] = (status, {"error": "cannot restart: a rollout is under way"})
    assert run(capsys, "admin", "restart") == (code, "", "velocity-edge: cannot restart: a rollout is under way\n")


def upgraded(**changes: Any) -> NodeStatus:
    """Return the status of the supervisor that came after the one of `sample_status`."""
    rollout = {"state": "done", "running": False, "total": 2, "done": 2, "lost": 0, "reason": "", "progress": "done"}
    found: Any = sample_status() | {"version": "0.2.0", "started_at_s": 1_000_001.0, "rollout": rollout}
    found["rollout"] |= changes.pop("rollout", {})
    return found | changes  # type: ignore[no-any-return]


AT_WORK = {"state": "bringing_up", "running": True, "progress": "core 0 (1 of 2): bringing up"}
ABORTED = {"state": "aborted", "reason": "worker 9 did not become ready: exited with 1"}


@pytest.mark.parametrize(
    ("now", "text", "code"),
    [
        (None, "the new supervisor is starting", None),
        (sample_status(), "the new supervisor is starting", None),
        (upgraded(state="starting"), "supervisor 0.2.0 is adopting the workers", None),
        (upgraded(rollout=AT_WORK), "supervisor 0.2.0 serves; restarting workers: core 0 (1 of 2): bringing up", None),
        (upgraded(), "upgraded to 0.2.0: 2 workers replaced, lost=0", 0),
        (upgraded(rollout=ABORTED), "its workers are not: worker 9 did not become ready: exited with 1.", 1),
        (upgraded() | {"rollout": None}, "supervisor 0.2.0 serves; restarting workers", None),
    ],
)
def test_an_upgrade_is_judged_by_what_the_new_supervisor_says(
    now: NodeStatus | None, text: str, code: int | None
) -> None:
    seen = judge(sample_status(), now)
    assert text in seen.text
    assert seen.exit_code == code


def test_a_former_version_without_word_of_its_rollout_is_judged_by_its_workers() -> None:
    now: Any = upgraded()
    del now["rollout"]
    assert judge(sample_status(), now).exit_code is None, "those of before are still there"
    for worker in now["workers"]:
        worker |= {"worker_id": worker["worker_id"] + 100, "state": "ready"}
    assert judge(sample_status(), now) == ("upgraded to 0.2.0: 2 workers replaced", 0)


def test_an_upgrade_is_followed_across_the_change_of_supervisors(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["/v1/upgrade"] = [{"text": "upgrading from 0.1.0 to 0.2.0", "ok": True, "exit_code": 0}]
    seen = iter([sample_status(), sample_status(), (503, {}), upgraded(rollout=AT_WORK), upgraded()])
    node.answers["/v1/status"] = lambda: next(seen)
    code, out, _ = run(capsys, "admin", "upgrade", "--reason", "CHG-1")
    assert texts(out) == [
        "upgrading from 0.1.0 to 0.2.0",
        "the new supervisor is starting",
        "supervisor 0.2.0 serves; restarting workers: core 0 (1 of 2): bringing up",
        "upgraded to 0.2.0: 2 workers replaced, lost=0",
    ]
    assert code == 0
    assert ("POST", "/v1/upgrade", {"reason": "CHG-1"}) in node.asked


def test_an_upgrade_that_is_refused_is_not_followed(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/upgrade"] = (409, {"error": "cannot upgrade: the new program does not start: SyntaxError"})
    code, _, err = run(capsys, "admin", "upgrade")
    assert (code, err) == (5, "velocity-edge: cannot upgrade: the new program does not start: SyntaxError\n")


def test_an_upgrade_whose_supervisor_dies_says_who_serves_on_and_what_helps(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velocity_edge.cli.upgrade._SUCCESSOR_S", 0.1)
    node.answers["/v1/upgrade"] = [{"text": "upgrading", "ok": True, "exit_code": 0}]
    dead: Any = sample_status() | {"pid": 2**22 + 1}
    seen = iter([dead])
    node.answers["/v1/status"] = lambda: next(seen, (503, {}))
    code, out, _ = run(capsys, "admin", "upgrade")
    assert code == 1
    assert "the workers go on serving without one; `velocity-edge serve`" in texts(out)[-1]


def test_the_banner_says_where_how_and_what_to_try() -> None:
    text = banner(sample_status(), "velocity-edge")
    for part in (
        "https://0.0.0.0:4433/ (UDP, HTTP/3)",
        "tier B: eBPF on the sockets",
        "not tier C (xdp): no interface is named",
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
