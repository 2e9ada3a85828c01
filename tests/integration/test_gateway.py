"""A program that speaks HTTP/1.1 gets what the node serves, streamed both ways over few connections; or 502, or 504."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import tls as tls_support
from tests.support.engine_driver import ROOT, pattern
from tests.support.node import running_node
from tests.support.socket_server import SocketServer
from tests.support.waiting import until
from velocity_edge.client.options import Options
from velocity_edge.gateway.run import Settings, serve
from velocity_edge.gateway.server import Rules
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.tls.tickets import Tickets

COMMAND = Path(sys.executable).parent / "velocity-edge"
INSECURE = Options(insecure=True, timeout_s=5.0)


class Gateway:
    """A gateway in the loop of a test."""

    def __init__(self) -> None:
        self.stop, self.at_once = asyncio.Event(), asyncio.Event()
        self.address: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.url = ""


@contextlib.asynccontextmanager
async def gateway(port: int, **changes: Any) -> AsyncIterator[Gateway]:
    settings = Settings("127.0.0.1", 0, f"https://127.0.0.1:{port}", INSECURE, grace_s=10.0)
    settings = replace(settings, **changes)
    made = Gateway()
    work = serve(settings, lambda *address: made.address.set_result(address), made.stop, made.at_once)
    made.task = asyncio.ensure_future(work)
    host, bound = await made.address
    made.url = f"http://{host}:{bound}"
    try:
        yield made
    finally:
        made.stop.set()
        made.at_once.set()
        await made.task


def session() -> ClientSession:
    return ClientSession(timeout=ClientTimeout(total=20))


async def test_requests_share_one_connection_to_the_node_and_bodies_pass_both_ways() -> None:
    async with SocketServer("portable") as server, gateway(server.port) as made, session() as http:
        for n_bytes in (0, 1, 300_000):
            async with http.get(f"{made.url}/bytes/{n_bytes}") as answer:
                assert (answer.status, await answer.read()) == (200, pattern(n_bytes))
                assert answer.headers["via"] == "3 velocity-gateway"
                assert "server" not in answer.headers
        sent = pattern(300_000)

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(sent), 50_000):
                yield sent[at : at + 50_000]

        async with http.post(f"{made.url}/echo", data=pieces()) as answer:
            assert await answer.read() == sent
        async with http.post(f"{made.url}/count", data=sent, headers={"content-encoding": "gzip"}) as answer:
            assert await answer.read() == b"%d" % len(sent)
        async with http.head(f"{made.url}/bytes/1000") as answer:
            assert answer.status == 200
        async with http.get(f"{made.url}/status/204") as answer:
            assert answer.status == 204
        assert len(server.app.handshakes) == 1
        first = server.app.requests[0]
        assert first.authority == f"127.0.0.1:{server.port}".encode()
        assert dict(first.headers)[b"x-forwarded-host"] == made.url.removeprefix("http://").encode()


async def test_a_response_is_streamed_and_a_client_that_leaves_resets_the_request() -> None:
    async with SocketServer("portable") as server, gateway(server.port) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(made.url.rpartition(":")[2]))
        writer.write(b"GET /stream/2000000000 HTTP/1.1\r\nhost: a\r\n\r\n")
        got = len(await reader.readuntil(b"\r\n\r\n"))
        while got < 200_000:
            got += len(await reader.read(65536))
        sent = -1
        while sent != server.app._feeding[server.app.requests[0].stream]:
            sent = server.app._feeding[server.app.requests[0].stream]
            await asyncio.sleep(0.3)
        assert sent > 2_000_000_000 - 40_000_000, "a client that does not read must stop the node"
        writer.close()
        await until(lambda: server.app.stream_closed, "the reset of the request", 10)
        assert server.app.stream_closed[0].error_code == 0x10C


async def status_of(url: str) -> int:
    async with session() as http, http.get(url) as answer:
        return answer.status


async def test_a_node_that_does_not_answer_is_a_504_and_its_connection_is_not_used_again() -> None:
    rules = Rules(response_timeout_s=0.3)
    async with SocketServer("portable") as server, gateway(server.port, rules=rules) as made:
        assert await status_of(f"{made.url}/hang") == 504
        assert await status_of(f"{made.url}/bytes/5") == 200
        assert len(server.app.handshakes) == 2


async def test_a_node_that_is_silent_is_a_504_and_one_that_is_not_there_a_502() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        async with gateway(port, connect_timeout_s=0.3) as made:
            assert await status_of(made.url) == 504
    async with gateway(port, connect_timeout_s=5.0) as made:
        assert await status_of(made.url) == 502


async def test_a_connection_that_has_ended_is_replaced() -> None:
    policy = tls_support.policy(tickets=Tickets(KeyRing(first_table(ROOT, 0.0), TICKET)))
    async with SocketServer("portable", policy=policy) as server, gateway(server.port) as made, session() as http:
        for n in (1, 2):
            async with http.get(f"{made.url}/bytes/5") as answer:
                assert answer.status == 200
            assert len(server.app.handshakes) == n
            server.engine.close(server.app.handshakes[-1].connection, 0x100)
            server.flush()
        async with http.get(f"{made.url}/bytes/5") as answer:
            assert answer.status == 200
        assert server.app.handshakes[-1].resumed


async def test_a_connection_that_the_node_will_end_finishes_its_requests_and_gets_no_others() -> None:
    async with SocketServer("portable") as server, gateway(server.port) as made, session() as http:
        async with http.get(f"{made.url}/stream/500000") as running:
            server.engine.goaway(server.app.handshakes[0].connection, final=False)
            server.flush()
            assert await status_of(f"{made.url}/bytes/5") == 200
            assert len(await running.read()) == 500_000
        assert await status_of(f"{made.url}/bytes/5") == 200
        assert len(server.app.handshakes) == 2


async def test_a_request_at_the_end_is_finished_and_no_other_begins() -> None:
    async with SocketServer("portable") as server, gateway(server.port) as made, session() as http:
        async with http.get(f"{made.url}/stream/500000") as answer:
            made.stop.set()
            await asyncio.sleep(0)
            assert len(await answer.read()) == 500_000
        assert made.task is not None
        await asyncio.wait_for(made.task, 10)
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", int(made.url.rpartition(":")[2]))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://b.test/ HTTP/1.1\r\nhost: b.test\r\n\r\n", b"400"),
        (b"CONNECT b.test:443 HTTP/1.1\r\nhost: b.test\r\n\r\n", b"501"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n", b"400"),
        (b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
    ],
)
async def test_what_is_no_request_for_a_node_does_not_reach_it(request_: bytes, status: bytes) -> None:
    async with SocketServer("portable") as server, gateway(server.port) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(made.url.rpartition(":")[2]))
        writer.write(request_)
        line = await reader.readline()
        assert line.split()[1] == status
        writer.close()
        assert not [request for request in server.app.requests if request.fin]


async def test_only_the_pinned_key_is_accepted() -> None:
    key = tls_support.chain().certificates[0].public_key()
    pin = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    async with SocketServer("portable") as server, session() as http:
        for value, status in ((pin, 200), (bytes(32), 502)):
            options = replace(INSECURE, insecure=False, pin=value)
            async with gateway(server.port, options=options) as made, http.get(f"{made.url}/bytes/5") as answer:
                assert answer.status == status


@pytest.mark.slow
def test_curl_uses_a_node_through_the_command() -> None:
    with running_node() as node:
        pin = json.loads(node.command("status", "--json").stdout)["certificates"][0]["spki_pin"]
        argv = [COMMAND, "gateway", "--listen", "127.0.0.1:0", "--upstream", node.url().rstrip("/"), "--pin", pin]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("listening on http://127.0.0.1:"), line
            url = line.split()[2]
            done = subprocess.run(["curl", "-sSi", f"{url}/"], capture_output=True, text=True, timeout=20, check=True)
            assert done.stdout.startswith("HTTP/1.1 200")
            assert "served by velocity-edge" in done.stdout
            assert "alt-svc" not in done.stdout.lower()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["--upstream", "http://a.test"],
        ["--upstream", "https://a.test/path"],
        ["--upstream", "https://a.test", "--pin", "abc"],
        ["--upstream", "https://a.test", "--pin", "ab" * 32, "--insecure"],
        ["--upstream", "https://a.test", "--listen", "localhost"],
        ["--upstream", "https://a.test", "--ca", "/nonexistent"],
        [],
    ],
)
def test_options_that_cannot_be_used_are_one_line(argv: list[str]) -> None:
    done = subprocess.run([COMMAND, "gateway", *argv], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode not in (0, 1)
    assert len(done.stderr.splitlines()) == 1, done.stderr
