"""Whoever is behind stops the other side of a proxied request, both ways, in bounded memory; by both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.node import ENGINES, Node, running_node
from tests.support.scripted_upstream import NEXT, READ_BODY, ScriptedUpstream, Step, pause, send
from tests.support.waiting import until
from velocity_edge.client.h3_client import Options, connect
from velocity_edge.errors import VelocityError

CONFIG = """\
server:
  listen: "127.0.0.1:0"
  workers: 1
  engine: ENGINE
  tls: {certificate: "DIRECTORY/certificate.pem", private_key: "DIRECTORY/key.pem"}
  limits: {max_request_body: 4GiB}
content:
  proxies:
  - {hostname: localhost, upstream: "http://127.0.0.1:PORT"}
"""
MUCH = 2_000_000_000
#: Windows of QUIC, buffers of sockets and of the proxy: together far below this.
MAX_ON_THE_WAY = 24 * 1024 * 1024
MAX_GROWTH_BYTES = 24 * 1024 * 1024
BLOCK = b"x" * 65536


@dataclass
class Stage:
    node: Node
    upstream: ScriptedUpstream


def scripts(path: str) -> list[Step]:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    return {
        "big": [send(head % MUCH), ("flood", BLOCK, MUCH), NEXT],
        "stuck": [pause(60)],
        "all": [READ_BODY, send(head % 2 + b"ok"), NEXT],
        "small": [send(head % 2 + b"ok"), NEXT],
    }[path]


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with ScriptedUpstream(scripts) as upstream:
        config = CONFIG.replace("ENGINE", request.param).replace("PORT", str(upstream.port))
        with running_node(engine=request.param, config=config) as node:
            yield Stage(node, upstream)


def memory_bytes(node: Node) -> int:
    [worker] = node.status()["workers"]
    status = Path(f"/proc/{worker['pid']}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


async def settled(read: object) -> int:
    """Wait until a number does not change for half a second; return it."""
    assert callable(read)
    before = -1
    while before != (now := int(read())):
        before = now
        await asyncio.sleep(0.5)
    return before


def test_a_client_that_does_not_read_stops_the_upstream_and_nobody_else(stage: Stage) -> None:
    async def run() -> None:
        options = Options(cafile=stage.node.ca, timeout_s=10.0)
        before = memory_bytes(stage.node)
        async with connect(stage.node.url(), options) as connection:
            response = await connection.request("GET", "/big")
            await until(lambda: stage.upstream.requests, "the request")
            sent = await settled(lambda: stage.upstream.requests[-1].sent)
            assert 65536 <= sent < MAX_ON_THE_WAY
            for _ in range(3):
                small = await connection.request("GET", "/small")
                assert await small.read() == b"ok"
            got = 0
            async for chunk in response:
                got += len(chunk)
                if got > sent + 1_000_000:
                    break
            response.abandon()
        assert memory_bytes(stage.node) - before < MAX_GROWTH_BYTES

    asyncio.run(run())


def test_an_upstream_that_does_not_read_stops_the_client(stage: Stage) -> None:
    made = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += len(BLOCK)
            yield BLOCK

    async def run() -> None:
        before = memory_bytes(stage.node)
        options = Options(cafile=stage.node.ca, timeout_s=20.0)
        async with connect(stage.node.url(), options) as connection:
            task = asyncio.ensure_future(connection.request("POST", "/stuck", body=endless()))
            await until(lambda: made > len(BLOCK), "the upload to begin")
            assert await settled(lambda: made) < MAX_ON_THE_WAY
            small = await connection.request("GET", "/small")
            assert await small.read() == b"ok"
            task.cancel()
            with pytest.raises((asyncio.CancelledError, VelocityError)):
                await task
        assert memory_bytes(stage.node) - before < MAX_GROWTH_BYTES

    asyncio.run(run())


def test_a_long_upload_arrives_whole_and_keeps_its_pace(stage: Stage) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield BLOCK

    async def run() -> None:
        async with connect(stage.node.url(), Options(cafile=stage.node.ca, timeout_s=20.0)) as connection:
            response = await connection.request("POST", "/all", (("content-length", str(64 * 65536)),), body())
            assert (response.status, await response.read()) == (200, b"ok")
        assert len(stage.upstream.requests[-1].body) == 64 * 65536

    asyncio.run(run())
