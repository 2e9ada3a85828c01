"""A drain measures each step, continues without the client that requested it, and is undone by a resume at any time.

Workers are fakes, so that each phase lasts as long as a test needs: a `busy` one has three requests that never end.
Real connections are in tests/interop/test_draining.py.
"""

import contextlib
import http.client
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import COMMAND
from tests.support.supervised import Supervised, supervised

#: Options with which a drain of a busy worker reaches a phase and stays there.
LONG = {"spread_s": 0, "announce_max_s": 200, "max_wait_s": 400}
STAYS_IN: dict[str, dict[str, Any]] = {
    "arrivals": LONG | {"settle_s": 100},
    "quiesce": LONG | {"settle_s": 0, "spread_s": 90},
    "live": LONG | {"settle_s": 0},
}


class Follower:
    """A client that requested a drain and reads the lines."""

    def __init__(self, node: Supervised, **body: Any) -> None:
        self.answer: tuple[int, Any] = (0, None)
        self._thread = threading.Thread(target=self._ask, args=(node, body))
        self._thread.start()

    def _ask(self, node: Supervised, body: dict[str, Any]) -> None:
        self.answer = node.post("drain", **body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All lines; waits for the end."""
        self._thread.join(20)
        code, lines = self.answer
        assert code == 200, lines
        return list(lines)


@pytest.fixture(name="busy")
def _busy() -> Iterator[Supervised]:
    with supervised("busy") as node:
        node.wait_until("connections", lambda s: s["workers"][0]["connections"] == 2)
        yield node


def in_phase(node: Supervised, phase: str) -> dict[str, Any]:
    return node.wait_until(phase, lambda s: s["drain"] and s["drain"]["phase"] == phase)


def test_drain_passes_all_phases_and_reports_its_verdict() -> None:
    with supervised() as node:
        code, lines = node.post("drain", reason="CHG-3", settle_s=2, spread_s=0)
        assert code == 200
        phases = list(dict.fromkeys(line["phase"] for line in lines))
        assert phases[0] in ("routes", "arrivals")
        assert phases[-1] == "drained"
        assert "arrivals" in phases
        assert all({"t_s", "at", "new_per_s", "established", "lost", "eta_s", "expect"} <= set(line) for line in lines)
        last = lines[-1]
        assert (last["ok"], last["exit_code"], last["proof"]) == (True, 0, "measured: new<1/s for 2 s")
        assert last["text"].endswith("VERDICT: drained, lost=0")
        disabled = node.directory / "run" / "disabled"
        assert disabled.read_text() == "CHG-3\n"
        assert node.request("GET", "readyz")[0] == 503
        status = node.status()
        assert (status["state"], status["reason"], status["disabled"]) == ("quiesced", "CHG-3", True)

        again = node.post("drain")[1]
        assert again[0]["text"].startswith("already drained since ")
        assert again[0]["text"].endswith(", CHG-3")
        assert again[-1]["exit_code"] == 0

        node.post("resume")
        node.wait_until("no file", lambda s: not s["disabled"])
        assert not disabled.exists()
        assert node.request("GET", "readyz")[0] == 200
        assert node.status()["drain"]["verdict"] == "VERDICT: drained, lost=0", "the last verdict stays"


def test_clients_are_served_and_readyz_fails_during_arrivals(busy: Supervised) -> None:
    follower = Follower(busy, **STAYS_IN["arrivals"])
    in_phase(busy, "arrivals")
    assert busy.request("GET", "readyz")[0] == 503
    assert (busy.directory / "run" / "disabled").exists()
    [worker] = busy.status()["workers"]
    assert worker["state"] == "ready", "workers have not heard of it"
    title = Path(f"/proc/{busy.process.pid}/cmdline").read_text()
    assert "supervisor draining: arrivals" in title, "and so the service manager's status"
    busy.post("resume")
    assert follower.lines[-1]["exit_code"] == 5


def test_arrivals_ended_by_the_timer_are_reported_as_not_measured(busy: Supervised) -> None:
    follower = Follower(busy, settle_s=100, announce_max_s=2, spread_s=0, max_wait_s=4)
    lines = follower.lines
    proofs = {line["phase"]: line["proof"] for line in lines}
    assert proofs["live"].startswith("by the clock after 2 s, new=0.0/s: not measured")
    last = lines[-1]
    assert last["text"].endswith("lost=3: requests on 2 connections were cut off")
    assert (last["exit_code"], last["lost"], last["cut"]) == (4, 3, 2)
    assert busy.status()["drain"]["exit_code"] == 4


@pytest.mark.parametrize("phase", STAYS_IN)
def test_resume_undoes_a_drain_in_each_phase(busy: Supervised, phase: str) -> None:
    follower = Follower(busy, reason="CHG-4", **STAYS_IN[phase])
    in_phase(busy, phase)
    assert "the drain is over" in busy.post("resume")[1][-1]["text"]
    assert follower.lines[-1]["phase"] == "resumed"
    assert "VERDICT: resumed after" in follower.lines[-1]["text"]
    status = busy.wait_until("no file", lambda s: not s["disabled"])
    assert (status["state"], status["workers"][0]["state"], status["left"]) == ("serving", "ready", [])
    assert busy.request("GET", "readyz")[0] == 200
    assert not any("disable file" in sentence for sentence in status["degraded"])
    # Repeat: no state of the first drain remains.
    follower = Follower(busy, **STAYS_IN[phase])
    in_phase(busy, phase)
    busy.post("resume")
    assert follower.lines[-1]["exit_code"] == 5


@pytest.mark.parametrize("phase", STAYS_IN)
def test_drain_survives_the_supervisor_in_each_phase(busy: Supervised, phase: str) -> None:
    body = STAYS_IN[phase] | ({"max_wait_s": 9} if phase != "arrivals" else {})
    body["announce_max_s"] = min(body["announce_max_s"], body["max_wait_s"])
    threading.Thread(target=_ask_and_be_cut_off, args=(busy, {"reason": "CHG-5", **body})).start()
    before = in_phase(busy, phase)["drain"]
    busy.process.kill()
    busy.process.wait()
    (busy.directory / "run" / "disabled").unlink()  # as if the supervisor had died before the file was written
    busy.start()
    after = busy.wait_until("adopted", lambda s: s["drain"] and s["drain"]["phase"] == phase)
    assert abs(after["drain"]["since_at_s"] - before["since_at_s"]) < 0.1
    assert (after["drain"]["reason"], after["adoptions"]) == ("CHG-5", 1)
    assert busy.request("GET", "readyz")[0] == 503
    busy.wait_until("the file", lambda s: s["disabled"])
    assert after["workers"][0]["state"] == ("ready" if phase == "arrivals" else "draining")
    if phase == "arrivals":
        busy.post("resume")
        last = busy.post("drain", attach=True)[1][-1]
        assert last["exit_code"] == 5
    else:
        lines = busy.post("drain", reason="another one")[1]
        assert lines[0]["text"].startswith("already draining since ")
        assert lines[0]["text"].endswith(", CHG-5")
        assert (lines[-1]["exit_code"], lines[-1]["lost"]) == (4, 3), "the deadline did not move"


def _ask_and_be_cut_off(node: Supervised, body: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        node.post("drain", **body)


def test_drain_command_follows_to_the_next_supervisor(busy: Supervised) -> None:
    argv = [COMMAND, "admin", "drain", "--settle", "0s", "--spread", "0s", "--max-wait", "9s", "--json"]
    command = subprocess.Popen(argv, env=busy.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    in_phase(busy, "live")
    busy.process.kill()
    busy.process.wait()
    busy.start()
    out, err = command.communicate(timeout=30)
    lines = [json.loads(line) for line in out.splitlines()]
    assert command.returncode == 4, err
    assert [line["text"] for line in lines if "already draining" in line["text"]]
    assert lines[-1]["lost"] == 3


def test_drain_continues_when_the_client_disconnects(busy: Supervised) -> None:
    argv = [COMMAND, "admin", "drain", "--settle", "0s", "--spread", "0s", "--max-wait", "4s", "--reason", "CHG-6"]
    command = subprocess.Popen(argv, env=busy.environment, stdout=subprocess.PIPE)
    in_phase(busy, "live")
    command.kill()
    command.communicate()
    status = busy.wait_until("the end", lambda s: s["drain"]["phase"] == "stopped_hard")
    assert (status["drain"]["lost"], status["reason"]) == (3, "CHG-6")
    records = [json.loads(line) for line in (busy.directory / "state" / "audit.log").read_text().splitlines()]
    assert {(record["request"], record["body"]["reason"]) for record in records} == {("/v1/drain", "CHG-6")}
    assert records[0]["outcome"].startswith("begun: ")


def test_remaining_connections_are_named(busy: Supervised) -> None:
    code, lines = busy.post("quiesce", wait=True, timeout_s=2, spread_s=0, reason="CHG-7")
    last = lines[-1]
    assert (code, last["exit_code"], last["connections"]) == (200, 4, 2)
    assert "2 connections are left: example.com 00:07:40 2 requests, (no name) 00:00:12 1 request" in last["text"]
    assert "`velocity-edge admin abort --age 0s` closes them" in last["text"]
    connections = busy.request("GET", "connections")[1]
    assert connections["connections"] == 2
    assert connections["workers"][0]["state"] == "draining"
    assert [c["site"] for c in connections["left"]] == ["example.com", ""]
    text = subprocess.run([COMMAND, "status"], env=busy.environment, capture_output=True, text=True, check=False).stdout
    assert "oldest: example.com 7 min 40 s 2 requests, (no name) 12 s 1 requests" in text
    assert "quiescing (CHG-7) since " in text
    closed = busy.post("abort", age_s=0)[1][-1]
    assert (closed["text"], closed["exit_code"]) == ("closed 2 connections, on which 1 request ran", 0)


def test_status_page_shows_the_drain_without_site_names() -> None:
    with supervised("busy", server__telemetry__metrics_listen="127.0.0.1:0") as node:
        follower = Follower(node, reason="CHG-9", **STAYS_IN["live"])
        in_phase(node, "live")
        base = f"http://{node.status()['metrics_listen']}"
        with urllib.request.urlopen(f"{base}/status.json") as answer:
            text = answer.read().decode()
        found = json.loads(text)
        assert found["drain"]["phase"] == "live"
        assert found["state"] == "quiescing"
        assert "CHG-9" not in text
        assert "example.com" not in text
        node.post("resume")
        assert follower.lines[-1]["exit_code"] == 5


def test_satisfied_timed_out_and_impossible_have_different_exit_codes(busy: Supervised) -> None:
    assert busy.post("quiesce", wait=True, below=2, timeout_s=10)[1][-1]["exit_code"] == 0
    assert busy.post("quiesce", wait=True, below=1, timeout_s=0)[1][-1]["exit_code"] == 4
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(busy.post("quiesce", wait=True, timeout_s=60)))
    waiting.start()
    time.sleep(0.3)
    busy.post("resume")
    waiting.join(10)
    assert answers[0][1][-1]["exit_code"] == 5
    assert "resumed meanwhile" in answers[0][1][-1]["text"]


def test_invalid_and_refused_requests_change_nothing(busy: Supervised) -> None:
    for body, part in (
        ({"max_wait_s": 10, "announce_max_s": 11}, "announce_max_s 11"),
        ({"settle": 3}, "'settle'"),
        ({"attach": "yes"}, "attach 'yes'"),
        ({"reason": "two\nlines"}, "reason"),
    ):
        code, answer = busy.post("drain", **body)
        assert code == 400
        assert answer["error"].startswith("cannot understand ")
        assert part in answer["error"]
    assert busy.post("drain", attach=True)[0] == 409
    assert "nothing was changed" in busy.post("drain", dry_run=True)[1][-1]["text"]
    assert "would replace the workers" in busy.post("restart", dry_run=True)[1][-1]["text"]
    status = busy.status()
    assert (status["state"], status["disabled"], status["drain"]) == ("serving", False, None)


def test_drain_fails_and_node_serves_when_the_disable_file_cannot_be_written(busy: Supervised) -> None:
    obstacle = busy.directory / "run" / "disabled"
    obstacle.mkdir()
    (obstacle / "x").touch()
    last = busy.post("drain")[1][-1]
    assert last["exit_code"] == 1
    assert "VERDICT: cannot drain: cannot write" in last["text"]
    status = busy.status()
    assert status["state"] == "serving"
    assert any("the disable file" in sentence for sentence in status["degraded"])


def test_drain_of_a_quiesced_node_skips_the_measurement(busy: Supervised) -> None:
    busy.post("quiesce", reason="CHG-8", spread_s=0)
    lines = busy.post("drain", spread_s=0, max_wait_s=3)[1]
    assert lines[-1]["proof"] == "the node accepts no new connections"
    assert (lines[-1]["lost"], busy.status()["reason"]) == (3, "CHG-8")


def test_immediate_quiesce_ends_the_arrivals_phase_of_a_drain(busy: Supervised) -> None:
    follower = Follower(busy, **STAYS_IN["arrivals"])
    in_phase(busy, "arrivals")
    assert busy.post("quiesce", mode="discourage")[0] == 409
    assert busy.post("quiesce", mode="immediate")[1][0]["text"].startswith("already draining since")
    in_phase(busy, "live")
    busy.post("resume")
    assert follower.lines[-1]["proof"] == "not awaited: an operator quiesced at once"
