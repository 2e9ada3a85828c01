"""WebSocket over HTTP/3 (RFC 9220) to a real WebSocket server: messages pass both ways, and each side can end it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, unix_serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from wsproto.events import CloseConnection

from tests.support.chromium import Chromium, require
from tests.support.node import ENGINES, Node, running_node
from tests.support.waiting import until
from tests.support.ws_over_h3 import websocket

pytestmark = pytest.mark.interop

CONFIG = """\
server:
  listen: "127.0.0.1:0"
  workers: 1
  engine: ENGINE
  tls: {certificate: "DIRECTORY/certificate.pem", private_key: "DIRECTORY/key.pem"}
  telemetry: {access_log: json}
content:
  proxies:
  - {hostname: localhost, upstream: "unix:SOCKET", timeouts: {idle: 3s}}
"""


@dataclass
class Stage:
    """A node, and the path of its upstream's socket, where each test has a server of its own."""

    node: Node
    path: Path


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="ve-ws-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)  # workers without rights must reach it
        path = Path(directory) / "sock"
        config = CONFIG.replace("ENGINE", request.param).replace("SOCKET", str(path))
        with running_node(engine=request.param, config=config) as node:
            yield Stage(node, path)


@asynccontextmanager
async def server(
    stage: Stage, handler: Callable[[ServerConnection], Awaitable[None]], **more: Any
) -> AsyncIterator[Server]:
    async with unix_serve(handler, str(stage.path), **more) as made:
        os.chmod(stage.path, 0o777)
        yield made
    os.unlink(stage.path)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def test_messages_pass_both_ways_and_the_client_ends_it(stage: Stage) -> None:
    seen: list[Any] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request)
        await echo(connection)
        seen.append(connection.close_code)

    async def run() -> None:
        fields = [(b"origin", b"https://localhost"), (b"sec-websocket-protocol", b"other, chat")]
        async with (
            server(stage, handler, subprotocols=["chat"], max_size=None, compression=None),
            websocket(stage.node.port, stage.node.ca, "/chat?room=1", fields) as client,
        ):
            assert await client.status == 200
            assert client.headers[b"sec-websocket-protocol"] == b"chat"
            assert not {b"sec-websocket-accept", b"connection", b"upgrade"} & client.headers.keys()
            for message in ("hello", "", "h\u00e9llo" * 1000, b"\x00\xff" * 100_000, b"x" * 1_000_000):
                client.send(message)
                assert await client.receive() == message
            client.close(1001, "done")
            closed = await client.receive()
            assert isinstance(closed, CloseConnection)
            assert closed.code == 1001
            assert await client.receive() is None
            await until(lambda: len(seen) == 2, "the server to have seen the end")
        request, code = seen
        assert code == 1001
        assert request.path == "/chat?room=1"
        assert request.headers["origin"] == "https://localhost"
        assert request.headers["x-forwarded-for"] == "127.0.0.1"

    asyncio.run(run())


def test_the_server_speaks_first_and_ends_it(stage: Stage) -> None:

    async def handler(connection: ServerConnection) -> None:
        await connection.send("welcome")
        await connection.close(4000, "enough")

    async def run() -> None:
        async with server(stage, handler), websocket(stage.node.port, stage.node.ca, "/") as client:
            assert await client.status == 200
            assert await client.receive() == "welcome"
            closed = await client.receive()
            assert (closed.code, closed.reason) == (4000, "enough")
            client.close(4000)
            assert await client.receive() is None

    asyncio.run(run())


def test_compression_is_between_the_two_ends(stage: Stage) -> None:

    async def run() -> None:
        fields = [(b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits")]
        async with server(stage, echo), websocket(stage.node.port, stage.node.ca, "/", fields) as client:
            assert await client.status == 200
            client.deflate()
            client.send("a" * 100_000)
            assert await client.receive() == "a" * 100_000

    asyncio.run(run())


def test_a_refusal_reaches_the_client(stage: Stage) -> None:

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus.FORBIDDEN, "not here\n")

    async def run() -> None:
        async with (
            server(stage, echo, process_request=refuse),
            websocket(stage.node.port, stage.node.ca, "/") as client,
        ):
            assert await client.status == 403

    asyncio.run(run())


def test_a_server_that_is_not_there_is_a_502(stage: Stage) -> None:

    async def run() -> None:
        async with websocket(stage.node.port, stage.node.ca, "/") as client:
            assert await client.status == 502

    asyncio.run(run())


def test_a_client_that_leaves_ends_the_connection_of_the_server(stage: Stage) -> None:
    ends: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        try:
            await connection.recv()
        except ConnectionClosed:
            ends.append("closed")

    async def run() -> None:
        async with server(stage, handler):
            async with websocket(stage.node.port, stage.node.ca, "/") as client:
                assert await client.status == 200
            await until(lambda: ends, "the end of the server's connection")

    asyncio.run(run())


def test_a_tunnel_in_which_nothing_passes_ends(stage: Stage) -> None:

    async def run() -> None:
        async with server(stage, echo, ping_interval=None), websocket(stage.node.port, stage.node.ca, "/") as client:
            assert await client.status == 200
            assert isinstance(await client.receive(), ConnectionError)

    asyncio.run(run())


PAGE = b"<!doctype html><title>chat</title><p>a page</p>"
TALK = """
new Promise(done => {
    const socket = new WebSocket(`wss://localhost:${location.port}/chat`, ["chat"]), heard = [];
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { socket.send("hello"); socket.send(new Uint8Array(100000)); };
    socket.onmessage = event => {
        heard.push(typeof event.data === "string" ? event.data : event.data.byteLength);
        if (heard.length === 2) socket.close(4001, "enough");
    };
    socket.onclose = event => done([socket.protocol, ...heard, event.code, event.wasClean].join(" "));
})
"""


def test_a_browser_talks_over_http3(stage: Stage) -> None:
    """There is no TCP port: what Chromium opens is a tunnel on the connection that loaded the page."""

    def page(connection: ServerConnection, request: Request) -> Response | None:
        if request.path != "/":
            return None
        fields = Headers({"Content-Type": "text/html", "Content-Length": str(len(PAGE)), "Connection": "close"})
        return Response(200, "OK", fields, PAGE)

    async def run() -> tuple[str, str]:
        node = stage.node
        async with server(stage, echo, process_request=page, subprotocols=["chat"]):
            return await asyncio.to_thread(browse, node.port, node.certificate.spki_pin)

    def browse(port: int, pin: str) -> tuple[str, str]:
        with Chromium("localhost", port, pin, features=["EnableWebsocketsOverHttp3"]) as browser:
            return browser.load("/").protocol, browser.evaluate(TALK)

    require()
    assert asyncio.run(run()) == ("h3", "chat hello 100000 4001 true")
