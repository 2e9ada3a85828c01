"""An upstream by TLS, for workers that can open no file: its name is checked, and they show their own certificate."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.certificates import Certificate, make_certificate
from tests.support.h2_upstream import Fields, H2Upstream, h2_upstream
from tests.support.node import ENGINES, Node, running_node
from tests.support.scripted_upstream import CLOSE, GOODBYE, NEXT, ScriptedUpstream, send
from velocity_edge.client.h3_client import Options, connect
from velocity_edge.errors import VelocityError

CONFIG = """\
server:
  listen: "127.0.0.1:0"
  workers: 1
  engine: ENGINE
  tls: {certificate: "DIRECTORY/certificate.pem", private_key: "DIRECTORY/key.pem"}
content:
  routes:
  - match: {path: /good}
    action: {type: proxy, upstream: SERVER, tls: {server_name: up.test, ca: CA, KEYPAIR}}
  - match: {path: /nobody}
    action: {type: proxy, upstream: SERVER, tls: {server_name: up.test, ca: CA}}
  - match: {path: /other-name}
    action: {type: proxy, upstream: SERVER, tls: {server_name: other.test, ca: CA, KEYPAIR}}
  - match: {path: /untrusted}
    action: {type: proxy, upstream: SERVER, tls: {server_name: up.test, KEYPAIR}}
  - match: {path: /unchecked}
    action: {type: proxy, upstream: SERVER, tls: {verify: false, KEYPAIR}}
  - match: {path: /h2}
    action: {type: proxy, upstream: "https://127.0.0.1:H2PORT", tls: {server_name: up.test, ca: CA}}
"""


@dataclass
class Stage:
    node: Node
    h2_port: int
    certificate: Certificate


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    places = [tmp_path_factory.mktemp(name) for name in ("up", "own")]
    theirs, own = make_certificate(places[0], "up.test"), make_certificate(places[1], "client.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.chain, theirs.key)
    context.load_verify_locations(own.chain)
    context.verify_mode = ssl.CERT_REQUIRED
    hello = send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    unlimited = send(b"HTTP/1.0 200 OK\r\n\r\nhello")
    scripts = {"good/ended": [unlimited, GOODBYE], "good/cut": [unlimited, CLOSE]}
    with ScriptedUpstream(lambda path: scripts.get(path, [hello, NEXT]), tls=context) as upstream:
        h2_port = free_port()
        words = {
            "ENGINE": request.param,
            "H2PORT": h2_port,
            "SERVER": f"https://127.0.0.1:{upstream.port}",
            "KEYPAIR": f"certificate: {own.chain}, private_key: {own.key}",
            "CA": theirs.chain,
        }
        config = CONFIG
        for word, value in words.items():
            config = config.replace(word, str(value))
        user = ["--user", "nobody"] if os.geteuid() == 0 else []
        with running_node(*user, engine=request.param, config=config) as node:
            yield Stage(node, h2_port, theirs)
            node.process.send_signal(signal.SIGTERM)
            node.process.wait(40)
            assert "imported" not in node.log, node.log[
                -2000:
            ]  # said at the end of a worker (workers/process/preload.py)


async def status_of(node: Node, path: str) -> int:
    async with connect(node.url(), Options(cafile=node.ca, timeout_s=10.0)) as connection:
        response = await connection.request("GET", path)
        await response.read()
        return response.status


@pytest.mark.parametrize(
    ("path", "status"),
    [("/good", 200), ("/nobody", 502), ("/other-name", 502), ("/untrusted", 502), ("/unchecked", 200)],
)
def test_the_server_is_the_one_that_was_named_and_knows_who_asks(stage: Stage, path: str, status: int) -> None:
    assert asyncio.run(status_of(stage.node, path)) == status


def test_http2_is_chosen_by_alpn(stage: Stage) -> None:
    def script(parser: object, stream: int, _: Fields) -> None:
        parser.send_headers(stream, [(b":status", b"200")], end_stream=True)  # type: ignore[attr-defined]

    async def run() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(stage.certificate.chain, stage.certificate.key)
        context.set_alpn_protocols(["h2"])
        upstream = H2Upstream(script)
        async with h2_upstream(upstream, context, stage.h2_port):
            assert await status_of(stage.node, "/h2") == 200
        assert upstream.requests[0][b":scheme"] == b"https"

    asyncio.run(run())


@pytest.mark.parametrize(("path", "whole"), [("/good/ended", True), ("/good/cut", False)])
def test_a_body_that_ends_with_the_connection_needs_the_end_of_tls(stage: Stage, path: str, whole: bool) -> None:
    async def run() -> bool:
        async with connect(stage.node.url(), Options(cafile=stage.node.ca, timeout_s=10.0)) as connection:
            try:  # the reset can come together with the head
                response = await connection.request("GET", path)
                assert await response.read() == b"hello"
            except VelocityError:
                return False
            return True

    assert asyncio.run(run()) is whole
