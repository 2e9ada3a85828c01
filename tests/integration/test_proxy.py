"""A request that no site answers goes to an upstream, and what comes back reaches the client; by both engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.node import ENGINES, Node, running_node
from tests.support.upstream import Upstream
from velocity_edge.client.h3_client import Connection, Options, connect

#: The example of the deployment guide, with paths and addresses of this machine.
GUIDE = """\
server:
   listen: "127.0.0.1:0"
   workers: 1
   engine: ENGINE
   tls:
      certificate: "DIRECTORY/certificate.pem"
      private_key: "DIRECTORY/key.pem"
      require_ech: false
   profiles:
      default: balanced
      permit: [light, balanced, secure]
   telemetry:
      metrics_listen: "127.0.0.1:0"
      structured_logs: true
content:
   sites:
      - hostname: velocity.test
         root: "DIRECTORY/root"
         index: index.html
         cache_control: public, max-age=60
   proxies:
      - hostname: localhost
         upstream: "UPSTREAM"
         preserve_host: true
         timeouts:
            connect: 5s
            response: 45s
            idle: 2m
EXTRA
tickets:
   max_age: 24h
   rotate_after: 12h
   storage: "DIRECTORY/tickets.json"
"""


@contextmanager
def proxying(engine: str, upstream: str, extra: str = "", text: str = GUIDE) -> Iterator[Node]:
    """Run a node of the guide's file; *extra* are more lines of the proxy."""
    filled = text.replace("ENGINE", engine).replace("UPSTREAM", upstream).replace("EXTRA\n", extra)
    with running_node(engine=engine, config=filled) as node:
        yield node


async def ask(connection: Connection, path: str, method: str = "GET", **more: object) -> tuple[int, bytes]:
    response = await connection.request(method, path, **more)  # type: ignore[arg-type]
    return response.status, b"".join([chunk async for chunk in response])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_guides_file_serves_a_site_and_a_proxy(engine: str) -> None:
    async def run(node: Node, upstream: Upstream) -> None:
        async with connect(node.url(), Options(cafile=node.ca, timeout_s=10.0)) as connection:
            status, body = await ask(connection, "/v1/things?x=1")
            assert status == 200
            seen = json.loads(body)
            assert (seen["method"], seen["target"]) == ("GET", "/v1/things?x=1")
            fields = seen["fields"]
            assert fields["host"] == f"localhost:{node.port}"
            assert fields["x-forwarded-for"] == "127.0.0.1"
            assert fields["x-forwarded-proto"] == "https"
            assert fields["via"] == "3 velocity-edge"
            for path in ("/bytes/0", "/bytes/1000000"):
                status, body = await ask(connection, path)
                assert (status, len(body)) == (200, int(path.rpartition("/")[2]))
            assert (await ask(connection, "/status/404"))[0] == 404
        assert upstream.connections == 1

    with Upstream() as upstream, proxying(engine, upstream.url) as node:
        asyncio.run(run(node, upstream))
