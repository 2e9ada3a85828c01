"""A reload keeps what it does not change, a restart waits for proxied requests, and a server that dies costs only what
it had; by both engines."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable

import pytest

from tests.support.node import ENGINES, Node, running_node
from tests.support.upstream import Upstream
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Connection, Options, connect

CONFIG = """\
server:
  listen: 127.0.0.1:0
  workers: 1
  engine: ENGINE
  telemetry: {metrics_listen: "127.0.0.1:0"}
  tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}
content:
  proxies:
    - hostname: localhost
      upstreams: [FIRST]
"""


async def ask(connection: Connection, path: str) -> tuple[int, str]:
    response = await connection.request("GET", path)
    async for _ in response:
        pass
    return response.status, dict(response.headers).get("x-upstream", "")


def change(node: Node, edit: Callable[[str], str]) -> None:
    """Edit the file and wait until the node has loaded it."""
    before = (node.status()["last_reload"] or {"revision": 1})["revision"]
    file = node.directory / "serve.yaml"
    aside = file.with_name(".new")
    aside.write_text(edit(file.read_text()))
    aside.replace(file)
    reload = poll(lambda: (now := node.status()["last_reload"]) and now["revision"] > before and now, "a reload", 30)
    assert reload["ok"], reload["reason"]


def row(node: Node, url: str) -> dict[str, object]:
    return next((dict(row) for row in node.status()["upstreams"] if row["upstream"] == url), {})


def metric(node: Node, name: str) -> str:
    with urllib.request.urlopen(f"http://{node.status()['metrics_listen']}/metrics", timeout=10) as answer:
        return next((line for line in answer.read().decode().splitlines() if line.startswith(name)), "")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_node_and_its_upstreams_through_changes(engine: str) -> None:
    with Upstream() as first, Upstream(name="two") as second:
        text = CONFIG.replace("ENGINE", engine).replace("FIRST", first.url)
        with running_node(engine=engine, config=text) as node:

            async def run() -> None:
                async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as connection:
                    await reloads(connection)
                    await failures(connection)

            async def reloads(connection: Connection) -> None:
                first.release.clear()
                slow = asyncio.create_task(ask(connection, "/slow"))
                await asyncio.to_thread(poll, lambda: first.requests and first.requests[-1][1] == "/slow", "a request")
                assert await ask(connection, "/x") == (200, "one")
                opened = first.connections
                change(node, lambda text: text.replace(f"[{first.url}]", f"[{first.url}, {second.url}]"))
                names = {(await ask(connection, "/x"))[1] for _ in range(4)}
                assert names == {"one", "two"}
                # The server that was there before keeps its idle connection.
                assert first.connections == opened
                change(node, lambda text: text.replace(f"[{first.url}, {second.url}]", f"[{second.url}]"))
                assert {(await ask(connection, "/x"))[1] for _ in range(3)} == {"two"}
                first.release.set()
                assert await slow == (200, "one")
                await asyncio.to_thread(poll, lambda: row(node, first.url).get("healthy_workers") is None, "its end")

            async def failures(connection: Connection) -> None:
                port = second.port
                second.close()
                assert {(await ask(connection, "/x"))[0] for _ in range(8)} == {502}
                await asyncio.to_thread(
                    poll,
                    lambda: any("none of its servers is healthy" in each for each in node.status()["degraded"]),
                    "it",
                )
                (sentence,) = (each for each in node.status()["degraded"] if "healthy" in each)
                assert f"`curl -v {second.url}/`" in sentence
                assert row(node, second.url)["healthy_workers"] == 0
                screen = node.command("status").stdout
                assert f"{second.url}     NONE" in screen, screen
                assert metric(
                    node, f'velocity_upstream_errors_total{{outcome="connect_failed",upstream="{second.url}"}}'
                )
                with Upstream(port, name="again") as again:
                    # None is healthy, so it is tried at once.
                    assert await ask(connection, "/x") == (200, "again")
                    assert again.connections == 1

            asyncio.run(run())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_restart_waits_for_a_proxied_request(engine: str) -> None:
    with Upstream() as upstream:
        text = CONFIG.replace("ENGINE", engine).replace("FIRST", upstream.url)
        with running_node(engine=engine, config=text) as node:

            async def run() -> None:
                upstream.release.clear()
                async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as connection:
                    response = await connection.request("GET", "/sse")
                    chunks = aiter(response)
                    assert await anext(chunks) == b"data: first\n\n"
                    before = node.status()["workers"][0]["worker_id"]
                    restart = asyncio.create_task(asyncio.to_thread(node.command, "admin", "restart"))
                    await asyncio.to_thread(
                        poll,
                        lambda: any(w["state"] == "draining" for w in node.status()["workers"]),
                        "the old worker to drain",
                    )
                    upstream.release.set()
                    assert await anext(chunks) == b"data: second\n\n"
                    assert [chunk async for chunk in chunks] == []
                    done = await restart
                    assert done.returncode == 0, done.stderr
                    assert node.status()["workers"][0]["worker_id"] != before
                counters = node.status()["counters"]
                assert counters["requests_lost_drain"] == 0, json.dumps(counters)

            asyncio.run(run())
