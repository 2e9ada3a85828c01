"""The number of workers changes under load without loss; a hung worker is replaced, and its clients are reset."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tests.integration.test_hitless import Result, more_requests, under_load
from tests.support.node import Node, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect
from velocity_edge.errors import VelocityError

CONFIG = """\
server:
  listen: 127.0.0.1:0
  workers: WORKERS
  tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}
content:
  sites: [{hostname: "*", root: DIRECTORY/root}]
"""


def serving(node: Node) -> int:
    return sum(worker["state"] == "ready" for worker in node.status()["workers"])


@pytest.mark.slow
def test_scaling_under_load_beyond_the_cores_loses_nothing() -> None:
    most = len(os.sched_getaffinity(0)) + 1
    with running_node(workers=most, config=CONFIG.replace("WORKERS", str(most))) as node:

        def play(result: Result) -> None:
            for count in (1, most):
                done = node.command("admin", "scale", str(count), "--timeout", "90s", timeout_s=120)
                assert (done.returncode, serving(node)) == (0, count), done.stdout + done.stderr
                more_requests(result, 50)
            file = node.directory / "serve.yaml"
            file.write_text(file.read_text().replace(f"workers: {most}", "workers: 2"))
            poll(lambda: len(node.status()["workers"]) == 2, "two workers", 60)
            more_requests(result, 50)
            refused = node.command("admin", "scale", str(most + 1))
            assert (refused.returncode, serving(node)) == (5, 2)
            assert f"cannot scale to {most + 1} workers: 1 to {most} have slots" in refused.stderr

        result = under_load(node, play)
        assert result.failures == []
        assert result.going_away > 0, "who sat on a worker that left was asked to go"


@pytest.mark.slow
def test_hung_worker_is_replaced_and_its_clients_are_reset() -> None:
    with running_node() as node:
        [stuck] = node.status()["workers"]
        options = Options(cafile=node.ca, timeout_s=60.0)

        async def get() -> int:
            async with connect(node.url(), options) as connection:
                return (await connection.request("GET", "/")).status

        async def play() -> None:
            async with connect(node.url(), options) as connection:
                assert (await connection.request("GET", "/")).status == 200
                os.kill(stuck["pid"], signal.SIGSTOP)
                since_s = time.monotonic()
                new_client = asyncio.create_task(get())
                with pytest.raises(VelocityError, match="reset"):
                    await connection.request("GET", "/")
                told_s = time.monotonic() - since_s
                # The time-out of heartbeats is 10 s, and the last one may be a second old.
                assert 8 < told_s < 30, told_s
                assert await new_client == 200, "it waited in the socket"
                assert await get() == 200

        asyncio.run(play())
        assert "no heartbeat for 10 s" in node.log
        [successor] = node.status()["workers"]
        assert successor["pid"] != stuck["pid"]
        node.counter("verdict_reset", 1)
