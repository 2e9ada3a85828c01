"""Invariant: each verb of `admin` sends its request, prints the answer, and exits with the code of the last line."""

from __future__ import annotations

import json
import threading

import pytest

from tests.support.command_line import run_verb, texts
from tests.support.pretend_admin import PretendAdmin

DONE = {"text": "done", "ok": True, "exit_code": 0}


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
def test_each_verb_sends_its_request_and_prints_the_answer(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], arguments: str, path: str, body: dict[str, object]
) -> None:
    node.answers[f"/v1/{path}"] = [{"text": "under way"}, DONE]
    code, out, _ = run_verb(capsys, "admin", *arguments.split(), "--reason", "CHG-1")
    assert (code, texts(out)) == (0, ["under way", "done"])
    assert node.asked == [("POST", f"/v1/{path}", body | {"reason": "CHG-1"})]


def test_the_default_reason_names_the_user(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/resume"] = [DONE]
    run_verb(capsys, "admin", "resume")
    assert node.asked[0][2]["reason"].startswith("by ")


@pytest.mark.parametrize("code", [1, 4])
def test_the_last_line_has_the_exit_code(node: PretendAdmin, capsys: pytest.CaptureFixture[str], code: int) -> None:
    node.answers["/v1/drain"] = [{"text": "3 left"}, {"text": "3 are left", "ok": False, "exit_code": code}]
    ended, out, _ = run_verb(capsys, "admin", "drain")
    assert (ended, texts(out)) == (code, ["3 left", "3 are left"])
    assert [json.loads(line)["text"] for line in run_verb(capsys, "admin", "drain", "--json")[1].splitlines()] == texts(
        out
    )


def test_an_answer_without_an_end_is_a_failure(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/restart"] = [{"text": "under way"}]
    assert run_verb(capsys, "admin", "restart")[0] == 1


def test_a_node_that_sends_no_more_lines_is_not_waited_for(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr("velocity_edge.cli.asking._SLACK_S", 0.05)
    node.answers["/v1/restart"] = lambda: over.wait(10) and [DONE]
    code, _, err = run_verb(capsys, "admin", "restart", "--timeout", "0s")
    over.set()
    assert code == 4
    assert err == "velocity-edge: cannot wait longer than 0.05 s: the node goes on; see `velocity-edge status`\n"


@pytest.mark.parametrize(("status", "code"), [(409, 5), (403, 5), (500, 1)])
def test_a_refusal_prints_the_error_of_the_node(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    node.answers["/v1/restart"] = (status, {"error": "cannot restart: a rollout is under way"})
    assert run_verb(capsys, "admin", "restart") == (code, "", "velocity-edge: cannot restart: a rollout is under way\n")
