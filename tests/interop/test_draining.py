"""A third-party client completes its download while the node drains; requests lost by a hard stop are counted.

curl of the sid root downloads slowly; arrivals are curl processes, too. curl also calls the admin API.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import sid
from tests.support.node import COMMAND, Node, running_node
from tests.support.waiting import poll

pytestmark = [pytest.mark.interop, pytest.mark.slow]

SIZE = 3_000_000
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(name="node")
def _node() -> Iterator[Node]:
    sid.require("test")
    with running_node("--metrics-listen", "127.0.0.1:0", workers=2) as node:
        (node.root / "big.bin").write_bytes(os.urandom(SIZE))
        try:
            yield node
        finally:
            for process in STARTED:
                process.kill()
                process.wait()
                if process.stdout:
                    process.stdout.close()
            STARTED.clear()


def started(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """End it with the test, also when that fails."""
    STARTED.append(process)
    return process


def download(node: Node, rate: str) -> subprocess.Popen[str]:
    """Start a download; wait until it runs."""
    said = "%{http_code} %{size_download} %{exitcode}"
    argv = ["curl", "--http3-only", "-s", "--cacert", node.ca, "--limit-rate", rate, "-o", "/dev/null", "-w", said]
    process = started(sid.start(*argv, node.url("/big.bin"), stdout=subprocess.PIPE))
    poll(lambda: sum(w["connections"] for w in node.status()["workers"]) >= 1, "a connection")
    return process


def drain(node: Node, *options: str) -> subprocess.Popen[str]:
    argv = [COMMAND, "admin", "drain", "--json", "--spread", "1s", "--reason", "CHG-1", *options]
    return started(subprocess.Popen(argv, env=node.environment, stdout=subprocess.PIPE, text=True))


def lines_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines()]


def test_slow_download_completes_during_a_drain(node: Node) -> None:
    slow = download(node, "190K")  # 15 seconds
    leaving = drain(node, "--settle", "4s", "--settle-below", "0.05")
    poll(lambda: (found := node.status()["drain"]) and found["phase"] == "arrivals", "arrivals")
    # Clients still arrive, as routers have not changed yet: they are served and counted.
    seen = 0.0
    while not seen:
        got = node.command("client", "get", "--insecure", "--quiet", node.url("/"))
        assert got.returncode == 0, got.stderr
        found = node.status()["drain"]
        assert found
        assert found["phase"] == "arrivals"
        seen = found["new_per_s"] or 0.0
    lines = lines_of(leaving)
    out, _ = slow.communicate(timeout=60)
    assert out == f"200 {SIZE} 0"
    last = lines[-1]
    assert (leaving.returncode, last["lost"], last["cut"]) == (0, 0, 0)
    assert last["proof"] == "measured: new<0.05/s for 4 s"
    assert [line["phase"] for line in lines if line["phase"] == "live"], "it was waited for"
    named = [connection for line in lines for connection in line["left"]]
    assert {(c["site"], c["requests"]) for c in named} >= {("localhost", 1)}
    text = node.command("status").stdout
    assert "quiesced (CHG-1) since " in text
    assert "VERDICT: drained, lost=0" in text


def test_hard_stop_counts_lost_requests(node: Node) -> None:
    slow = download(node, "20K")  # minutes
    leaving = drain(node, "--settle", "0s", "--max-wait", "5s")
    last = lines_of(leaving)[-1]
    assert (leaving.returncode, last["lost"], last["cut"], last["phase"]) == (4, 1, 1, "stopped_hard")
    out, _ = slow.communicate(timeout=30)
    assert not out.endswith(" 0"), "curl lost it, too"
    assert node.counter("requests_lost_drain", 1) == 1
    page = node.admin("GET", "/v1/metrics")[1].decode()
    assert 'velocity_requests_lost_total{cause="drain"} 1.0' in page
    assert 'velocity_connections_cut_total{cause="drain"} 1.0' in page


def test_connections_continue_after_resume_and_a_second_drain(node: Node) -> None:
    slow = download(node, "250K")
    for _ in range(2):
        leaving = drain(node, "--settle", "0s", "--max-wait", "60s")
        poll(lambda: (found := node.status()["drain"]) and found["phase"] == "live", "live")
        resumed = node.command("admin", "resume")
        assert resumed.returncode == 0
        assert lines_of(leaving)[-1]["phase"] == "resumed"
        assert leaving.returncode == 5
        assert node.command("client", "get", "--insecure", "--quiet", node.url("/")).returncode == 0
    assert slow.communicate(timeout=60)[0] == f"200 {SIZE} 0"


class Socket:
    """curl on the admin socket, as an operator types it."""

    def __init__(self, node: Node) -> None:
        self._path = node.directory / "run" / "admin.sock"

    def __call__(self, path: str, *options: str) -> tuple[int, str]:
        done = sid.run(
            "curl", "-sS", "--unix-socket", self._path, "-w", "\n%{http_code}", *options, f"http://node/v1/{path}"
        )
        assert done.returncode == 0, done.stderr
        body, _, code = done.stdout.rpartition("\n")
        return int(code), body


def test_admin_api_works_with_curl(node: Node) -> None:
    curl = Socket(node)
    assert curl("livez") == (200, "alive\n")
    code, body = curl("quiesce")
    assert code == 405
    assert json.loads(body)["error"].startswith("cannot GET /v1/quiesce")
    assert curl("readyz")[0] == 200, "a GET changed nothing"

    etag = next(
        line.split(": ")[1].strip() for line in curl("status", "-D", "-", "-o", "/dev/null")[1].splitlines()
        if line.lower().startswith("etag")
    )  # fmt: skip
    post = ("-X", "POST", "-d")
    code, body = curl("quiesce", *post, '{"reason": "CHG-2", "spread_s": 0}', "-H", f"If-Match: {etag}")
    assert (code, json.loads(body.splitlines()[0])["text"]) == (200, "quiescing (graceful), CHG-2")
    code, body = curl("resume", *post, "{}", "-H", f"If-Match: {etag}")
    assert code == 412
    assert "the node has changed since" in json.loads(body)["error"]
    assert curl("readyz")[0] == 503
    assert curl("resume", *post, "{}")[0] == 200
    assert curl("readyz")[0] == 200

    code, body = curl("drain", "-N", *post, '{"settle_s": 1, "spread_s": 0, "reason": "CHG-3"}')
    assert code == 200
    lines = [json.loads(line) for line in body.splitlines()]
    assert lines[0]["phase"] in ("routes", "arrivals")
    assert (lines[-1]["ok"], lines[-1]["exit_code"]) == (True, 0)
    code, body = curl("connections")
    assert (code, json.loads(body)["left"]) == (200, [])
    assert json.loads(curl("resume", *post, "{}")[1])["ok"]


def test_rolling_upgrade_works_as_in_the_guide(node: Node, tmp_path: Path) -> None:
    """Quiesce, wait for the metric, restart the service, health, resume: as printed, with an active client."""
    client = COMMAND.with_name("velocity-cli")

    def cli(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [client, *argv], env=node.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def metric(name: str) -> float:
        argv = ["curl", "-s", f"http://{node.status()['metrics_listen']}/metrics"]
        page = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return sum(float(line.split()[1]) for line in page.splitlines() if line.startswith(name))

    slow = download(node, "500K")  # 6 seconds
    before = metric("downgrade_events_total")
    assert metric("active_connections") == 1
    assert cli("admin", "quiesce").returncode == 0
    poll(lambda: metric("active_connections") < 1, "active_connections below the threshold", timeout_s=60)
    assert slow.communicate(timeout=30)[0] == f"200 {SIZE} 0"

    node.process.terminate()
    assert node.process.wait(30) == 0
    with (node.directory / "log").open("ab") as log:
        node.process = subprocess.Popen(node.process.args, stdout=log, stderr=log, env=node.environment)
    health = poll(lambda: (done := cli("health")).returncode in (0, 6) and done, "health", timeout_s=60, every_s=0.3)
    assert "0 active connections" in health.stdout
    assert metric("downgrade_events_total") <= before
    assert cli("admin", "resume").returncode == 0
    assert cli("health", "--ready").returncode in (0, 6)
    port = node.status()["listeners"][0].rpartition(":")[2]
    assert cli("client", "get", "-k", "-q", f"https://localhost:{port}/").returncode == 0
