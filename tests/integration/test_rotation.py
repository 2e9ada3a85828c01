"""Any number of key rotations loses no connection, no reset and no session."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from tests.integration.test_hitless import Result, all_new, more_requests, under_load, workers
from tests.support.node import ENGINES, Node, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Connection, Options, connect

MODES = [
    pytest.param("socket", "portable", marks=pytest.mark.root),
    pytest.param("socket", "native", marks=pytest.mark.root),
    ("socket-classic", "native"),
]


def rotate(node: Node) -> int:
    """Rotate; return the epoch that seals now."""
    code, body = node.admin("POST", "/v1/tickets/rotate", "{}")
    assert code == 200, body
    last = json.loads(body.splitlines()[-1])
    assert last["ok"], last
    return int(node.status()["keys"]["seal_with"])


async def fetch(connection: Connection) -> None:
    response = await connection.request("GET", "/")
    body = b"".join([chunk async for chunk in response])
    assert response.status == 200
    assert b"served by velocity-edge" in body


@pytest.mark.parametrize(("mode", "engine"), MODES)
def test_connections_survive_three_rotations(mode: str, engine: str) -> None:
    with running_node(workers=2, dispatch=mode, engine=engine) as node:

        async def run() -> None:
            options = Options(cafile=node.ca, timeout_s=5.0)
            async with connect(node.url(), options) as one, connect(node.url(), options) as two:
                for expected in (2, 3, 4):
                    await asyncio.gather(fetch(one), fetch(two))
                    assert await asyncio.to_thread(rotate, node) == expected
                await asyncio.gather(fetch(one), fetch(two))

        asyncio.run(run())


def connections_on(node: Node, epoch: int) -> int:
    [row] = [row for row in node.status()["keys"]["epochs"] if row["epoch"] == epoch]
    return row["connections"]


@pytest.mark.parametrize("engine", ENGINES)
def test_connections_on_an_old_epoch_are_counted_and_moved_without_failed_requests(engine: str) -> None:
    """The portable engine issues new ids to its connections; the native one replaces the connections by GOAWAY."""
    with running_node(workers=2, engine=engine) as node:

        def play(result: Result) -> None:
            poll(lambda: connections_on(node, 1) == 6, "a count of six")
            assert rotate(node) == 2
            if engine == "native":
                more_requests(result)
                metrics = node.admin("GET", "/v1/metrics")[1].decode()
                assert 'velocity_connections_by_key_epoch{epoch="1"} 6.0' in metrics
                assert "connection IDs of epoch 1: 6 connections" in node.command("status").stdout
            run = node.command("tickets", "rotate", "--move", "--spread", "1s", "--timeout", "30s", timeout_s=40)
            assert run.returncode == 0, run
            assert "epoch 3 seals; no connection uses an earlier one" in run.stdout
            poll(lambda: connections_on(node, 3) == 6, "six connections on the new epoch")
            assert [connections_on(node, epoch) for epoch in (1, 2)] == [0, 0]

        result = under_load(node, play)
        assert result.failures == []
        if engine == "portable":
            assert (result.connections, result.going_away) == (6, 0), "no connection was interrupted"
        else:
            assert (result.connections, result.going_away) == (12, 6)


def test_rotation_waits_for_connections_on_the_epoch_it_replaces() -> None:
    """Seven epochs have room; the eighth is refused with a reason, and starts when the first has no connections."""
    with running_node(workers=1, engine="native") as node:

        async def run() -> None:
            async with connect(node.url(), Options(cafile=node.ca, timeout_s=5.0)) as connection:
                await fetch(connection)
                for expected in range(2, 8):
                    assert await asyncio.to_thread(rotate, node) == expected
                await fetch(connection)
                run = await asyncio.to_thread(node.command, "tickets", "rotate")
                assert run.returncode == 5
                assert "cannot rotate keys: epoch 8 needs the connection IDs of epoch 1" in run.stderr
                await fetch(connection)
                await asyncio.to_thread(poll, lambda: connections_on(node, 1), "a count")
                # It stays open as long as a request runs.
                run = await asyncio.to_thread(node.command, "tickets", "expire", "--epoch", "1", "--timeout", "0s")
                assert run.returncode == 4, run
                assert "1 connection left on epoch 1" in run.stdout
                await asyncio.to_thread(poll, lambda: connection.going_away, "GOAWAY")

        asyncio.run(run())
        assert node.command("tickets", "expire", "--epoch", "1", "--timeout", "20s").returncode == 0
        assert node.status()["keys"]["seal_with"] == 7


@pytest.mark.parametrize(("mode", "engine"), MODES[1:])
def test_connections_of_a_dead_worker_are_reset_after_rotations(mode: str, engine: str) -> None:
    """For ids of any epoch: the replacement has the keys of the reset, and the client accepts it."""
    with running_node(workers=2, dispatch=mode, engine=engine) as node:

        def play(result: Result) -> None:
            poll(lambda: connections_on(node, 1) == 6, "a count of six")
            rotate(node)
            rotate(node)
            busiest = max(workers(node).values(), key=lambda worker: worker["connections"])
            os.kill(busiest["pid"], signal.SIGKILL)
            poll(lambda: len(result.recovered_s) >= busiest["connections"], "clients that are back")

        result = under_load(node, play)
        assert 1 <= len(result.failures) <= 6
        assert max(result.recovered_s) < 5, result.recovered_s
        node.counter("verdict_reset", 1)


def test_address_token_avoids_the_retry_on_another_worker() -> None:
    """Also after a rotation and a rolling restart; an expired token costs only the round trip."""
    with running_node("--set", "server.limits.retry_threshold=0", workers=2) as node:

        async def retried(token: bytes) -> tuple[bool, bytes]:
            async with connect(node.url(), Options(cafile=node.ca, token=token)) as connection:
                await fetch(connection)
                return connection.handshake.retry, connection.tokens[-1]

        asked, token = asyncio.run(retried(b""))
        assert asked
        rotate(node)
        before = set(workers(node))
        node.admin("POST", "/v1/restart", "{}")
        assert all_new(node, before)
        asked, later = asyncio.run(retried(token))
        assert not asked
        assert node.command("tickets", "expire", "--epoch", "1", "--spread", "0s", timeout_s=60).returncode == 0
        assert asyncio.run(retried(token))[0], "its key is expired"
        assert not asyncio.run(retried(later))[0]
