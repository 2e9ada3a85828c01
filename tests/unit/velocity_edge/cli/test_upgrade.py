"""Invariant: `admin upgrade` reports how the upgrade ended, also when the supervisor that was asked is replaced."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.command_line import run_verb, texts
from tests.support.pretend_admin import PretendAdmin, sample_status
from velocity_edge.cli.upgrade import judge
from velocity_edge.status.document import NodeStatus


def upgraded(**changes: Any) -> NodeStatus:
    """Return the status of the supervisor that follows that of `sample_status`."""
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
def test_an_upgrade_is_judged_by_the_status_of_the_new_supervisor(
    now: NodeStatus | None, text: str, code: int | None
) -> None:
    seen = judge(sample_status(), now)
    assert text in seen.text
    assert seen.exit_code == code


def test_a_version_that_reports_no_rollout_is_judged_by_its_workers() -> None:
    now: Any = upgraded()
    del now["rollout"]
    assert judge(sample_status(), now).exit_code is None, "the old workers still run"
    for worker in now["workers"]:
        worker |= {"worker_id": worker["worker_id"] + 100, "state": "ready"}
    assert judge(sample_status(), now) == ("upgraded to 0.2.0: 2 workers replaced", 0)


def test_an_upgrade_is_followed_from_one_supervisor_to_the_next(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["/v1/upgrade"] = [{"text": "upgrading from 0.1.0 to 0.2.0", "ok": True, "exit_code": 0}]
    seen = iter([sample_status(), sample_status(), (503, {}), upgraded(rollout=AT_WORK), upgraded()])
    node.answers["/v1/status"] = lambda: next(seen)
    code, out, _ = run_verb(capsys, "admin", "upgrade", "--reason", "CHG-1")
    assert texts(out) == [
        "upgrading from 0.1.0 to 0.2.0",
        "the new supervisor is starting",
        "supervisor 0.2.0 serves; restarting workers: core 0 (1 of 2): bringing up",
        "upgraded to 0.2.0: 2 workers replaced, lost=0",
    ]
    assert code == 0
    assert ("POST", "/v1/upgrade", {"reason": "CHG-1"}) in node.asked


def test_a_refused_upgrade_is_not_followed(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/upgrade"] = (409, {"error": "cannot upgrade: the new program does not start: SyntaxError"})
    code, _, err = run_verb(capsys, "admin", "upgrade")
    assert (code, err) == (5, "velocity-edge: cannot upgrade: the new program does not start: SyntaxError\n")


def test_an_upgrade_whose_supervisor_dies_reports_that_workers_serve_and_what_to_do(
    node: PretendAdmin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velocity_edge.cli.upgrade._SUCCESSOR_S", 0.1)
    node.answers["/v1/upgrade"] = [{"text": "upgrading", "ok": True, "exit_code": 0}]
    dead: Any = sample_status() | {"pid": 2**22 + 1}
    seen = iter([dead])
    node.answers["/v1/status"] = lambda: next(seen, (503, {}))
    code, out, _ = run_verb(capsys, "admin", "upgrade")
    assert code == 1
    assert "the workers go on serving without one; `velocity-edge serve`" in texts(out)[-1]
