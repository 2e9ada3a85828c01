"""Rotating the keys loses nothing, however many rotations follow: neither a connection, nor a reset, nor a session."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.node import ENGINES, Node, running_node
from velocity_edge.client.h3_client import Connection, Options, connect

MODES = [pytest.param("socket", marks=pytest.mark.root), "socket-classic"]


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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_connections_live_through_three_rotations(mode: str, engine: str) -> None:
    with running_node(workers=2, dispatch=mode, engine=engine) as node:

        async def run() -> None:
            options = Options(cafile=node.ca, timeout_s=5.0)
            async with connect(node.url(), options) as one, connect(node.url(), options) as two:
                for expected in (2, 3, 4):
                    await asyncio.gather(fetch(one), fetch(two))
                    assert await asyncio.to_thread(rotate, node) == expected
                await asyncio.gather(fetch(one), fetch(two))

        asyncio.run(run())
