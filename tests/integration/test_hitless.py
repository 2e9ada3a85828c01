"""Real workers, live connections: no request is lost by death or upgrade of the supervisor or by a rolling restart."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Node, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect
from velocity_edge.errors import VelocityError

MODES = [pytest.param("socket", marks=pytest.mark.root), "socket-classic"]


@dataclass
class Result:
    requests: int = 0
    connections: int = 0
    going_away: int = 0
    failures: list[str] = field(default_factory=list)
    #: How long clients waited after a failure until a request of theirs succeeded again.
    recovered_s: list[float] = field(default_factory=list)


async def client(node: Node, stop: asyncio.Event, result: Result) -> None:
    """Send one request after the other on a connection; on GOAWAY, finish and open another connection."""
    failed_at: float | None = None
    while not stop.is_set():
        try:
            async with connect(node.url(), Options(cafile=node.ca, timeout_s=10.0)) as connection:
                result.connections += 1
                while not stop.is_set() and not connection.going_away:
                    response = await connection.request("GET", "/")
                    body = b"".join([chunk async for chunk in response])
                    assert response.status == 200
                    assert b"served by velocity-edge" in body
                    result.requests += 1
                    if failed_at is not None:
                        result.recovered_s.append(time.monotonic() - failed_at)
                        failed_at = None
                    await asyncio.sleep(0.02)
                result.going_away += connection.going_away
        except VelocityError as error:
            result.failures.append(str(error))
            failed_at = failed_at or time.monotonic()


def under_load(
    node: Node, play: Callable[[Result], None], clients: int = 6, loops: list[asyncio.AbstractEventLoop] | None = None
) -> Result:
    """Run *play* in a thread while clients are busy; return what they saw. Their loop is put into *loops*."""

    async def run() -> Result:
        stop, result = asyncio.Event(), Result()
        if loops is not None:
            loops.append(asyncio.get_running_loop())
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(client(node, stop, result))
            try:
                await asyncio.to_thread(poll, lambda: result.connections >= clients, "connections")
                await asyncio.to_thread(play, result)
                await asyncio.to_thread(more_requests, result)
            finally:
                stop.set()
        return result

    return asyncio.run(run())


def more_requests(result: Result, count: int = 100) -> None:
    now = result.requests
    poll(lambda: result.requests >= now + count, f"{count} more requests")


def another_supervisor(node: Node) -> None:
    with (node.directory / "log").open("ab") as log:
        node.process = subprocess.Popen(node.process.args, stdout=log, stderr=log, env=node.environment)


def workers(node: Node) -> dict[int, Any]:
    return {w["pid"]: w for w in node.status()["workers"]}


def all_new(node: Node, old: set[int]) -> bool:
    try:
        now = workers(node)
    except (OSError, AssertionError):
        return False
    return len(now) == 2 and not old & set(now) and all(w["state"] == "ready" for w in now.values())


@pytest.mark.parametrize("mode", MODES)
def test_death_of_the_supervisor_loses_no_request(mode: str) -> None:
    with running_node(workers=2, dispatch=mode) as node:
        before = set(workers(node))

        def play(result: Result) -> None:
            for _ in range(3):
                node.process.kill()
                node.process.wait()
                more_requests(result)
                another_supervisor(node)
                poll(lambda: "serving" in _state(node), "adoption")
                more_requests(result)

        result = under_load(node, play)
        assert set(workers(node)) == before
        assert result.failures == []
        assert (result.connections, result.going_away) == (6, 0), "no connection was interrupted"
        counters = node.status()["counters"]
        received = counters["datagrams_received"] + counters["datagrams_injected"]
        assert received == sum(n for name, n in counters.items() if name.startswith("verdict_"))


def _state(node: Node) -> str:
    try:
        status = node.status()
    except (OSError, AssertionError):
        return ""
    return status["state"] if status["last_reload"] and status["last_reload"]["ok"] else ""


@pytest.mark.parametrize("mode", MODES)
def test_rolling_restart_loses_no_request(mode: str) -> None:
    with running_node(workers=2, dispatch=mode) as node:
        before = set(workers(node))

        def play(result: Result) -> None:
            code, lines = node.admin("POST", "/v1/restart", "{}")
            assert code == 200
            assert b'"lost": 0' in lines.splitlines()[-1], lines

        result = under_load(node, play)
        assert all_new(node, before)
        assert result.failures == []
        assert result.going_away >= 6, "each connection was asked to leave at least once"
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in workers(node)} == {
            os.getpriority(os.PRIO_PROCESS, node.process.pid)
        }, "who serves is urgent"


@pytest.mark.root
def test_upgrade_loses_no_request() -> None:
    with running_node(workers=2) as node:
        before, pid = set(workers(node)), node.process.pid

        def play(result: Result) -> None:
            os.kill(pid, signal.SIGUSR2)
            poll(lambda: all_new(node, before), "workers of the new installation", 90)

        result = under_load(node, play)
        assert node.status()["pid"] == pid
        assert "the rolling restart is done: 2 workers replaced, lost=0" in node.log, "the result in the log"
        assert node.status()["dispatch"]["tier"] == "B"
        assert result.failures == []


@pytest.mark.parametrize("mode", MODES)
def test_clients_of_a_killed_worker_are_reset_at_once(mode: str) -> None:
    with running_node(workers=2, dispatch=mode) as node:

        def play(result: Result) -> None:
            # Counts are up to a second old; wait until the workers with connections are known.
            busiest = poll(
                lambda: (
                    max(workers(node).values(), key=lambda w: w["connections"])["connections"]
                    and max(workers(node).values(), key=lambda w: w["connections"])
                ),
                "a worker with connections",
            )
            os.kill(busiest["pid"], signal.SIGKILL)
            poll(lambda: len(result.recovered_s) >= busiest["connections"], "clients that are back")

        result = under_load(node, play)
        assert 1 <= len(result.failures) <= 6
        # The replacement sends a valid reset as soon as it reads: the client waits for no time-out.
        assert max(result.recovered_s) < 5, result.recovered_s
        node.counter("verdict_reset", 1)


@pytest.mark.parametrize(
    ("mode", "restarting"),
    [
        pytest.param("socket", False, marks=pytest.mark.root),
        pytest.param("socket", True, marks=pytest.mark.root),
        ("socket-classic", False),
    ],
)
def test_next_node_resets_connections_when_all_processes_died(mode: str, restarting: bool) -> None:
    """Without a service manager that keeps sockets: no partial state is left, and clients are reset at once."""
    with running_node(workers=2, dispatch=mode) as node:
        old = set(workers(node))

        def play(result: Result) -> None:
            if restarting:
                threading.Thread(target=lambda: _ignore(lambda: node.admin("POST", "/v1/restart", "{}"))).start()
                poll(lambda: len(workers(node)) == 3, "a new worker")
            processes = {node.process.pid, *old, *workers(node)}
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            node.process.wait()
            poll(lambda: not any(_alive(pid) for pid in processes), "the end of all")
            another_supervisor(node)
            poll(lambda: _ready(node), "a node that serves", 60)
            poll(lambda: len(result.recovered_s) >= 6, "clients that are back", 30)

        result = under_load(node, play)
        assert len(result.failures) >= 6, "their workers are dead"
        # Counted from the death: the start of a node, and one round trip. The time-out of the clients is 10 s and more.
        assert max(result.recovered_s) < 20, result.recovered_s
        assert not old & set(workers(node))
        node.counter("verdict_reset", 1)
        status = node.status()
        assert status["dispatch"]["adopted"] == (mode == "socket"), "pinned tables are adopted"
        assert "workers died with an earlier supervisor" in node.log


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def _ready(node: Node) -> bool:
    now = _ignore(lambda: workers(node).values()) or []
    return len(now) == 2 and all(w["state"] == "ready" for w in now)


def test_worker_that_never_served_ends_with_its_supervisor() -> None:
    with running_node(workers=2, dispatch="socket-classic") as node:
        state = node.directory / "run" / "state.json"
        before = set(workers(node))
        node.admin("POST", "/v1/scale", '{"workers": 1}')
        poll(lambda: len(workers(node)) == 1, "one worker")
        # The new worker imports for some 100 ms; its supervisor dies meanwhile.
        threading.Thread(target=lambda: _ignore(lambda: node.admin("POST", "/v1/scale", '{"workers": 2}'))).start()

        def new_worker() -> int:
            pids = {w["pid"] for w in json.loads(state.read_text())["workers"]}
            return next(iter(pids - before), 0)

        pid = poll(new_worker, "a new worker", every_s=0.001)
        node.process.kill()
        node.process.wait()
        poll(lambda: not Path(f"/proc/{pid}").exists(), "the end of the new worker")
        another_supervisor(node)
        poll(lambda: _ignore(lambda: len(workers(node)) == 2), "two workers")


def _ignore(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (OSError, http.client.HTTPException, AssertionError):
        return None
