"""Our client against our engines on real sockets: it reports what was negotiated, and errors have messages."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support import tls as tls_support
from tests.support.engine_driver import ENGINES, ROOT, pattern, require_engine
from tests.support.socket_server import SocketServer
from velocity_edge.client.h3_client import connect, fetch
from velocity_edge.client.options import Options, split_url
from velocity_edge.client.probe import probe
from velocity_edge.errors import CannotDo, ConfigError, Unreachable, VelocityError
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.quic.limits import Limits
from velocity_edge.tls import kex
from velocity_edge.tls.tickets import Tickets

T = TypeVar("T")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return require_engine(request.param)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 30))


def url(server: SocketServer, path: str = "/bytes/100", host: str = "127.0.0.1") -> str:
    return f"https://{host}:{server.port}{path}"


INSECURE = Options(insecure=True, timeout_s=5.0)


def tickets() -> Tickets:
    return Tickets(KeyRing(first_table(ROOT, 0.0), TICKET))


def test_fetch_reports_the_negotiated_parameters(engine: str) -> None:
    async def work() -> None:
        async with SocketServer(engine) as server:
            fetched = await fetch(url(server), INSECURE)
            assert (fetched.status, fetched.body) == (200, pattern(100))
            facts = fetched.handshake
            assert (facts.group, facts.post_quantum, facts.alpn) == ("X25519MLKEM768", True, "h3")
            assert facts.cipher == "TLS_AES_128_GCM_SHA256"
            assert facts.signature == "ecdsa_secp256r1_sha256"
            assert facts.certificates[0].names == [tls_support.NAME]
            assert not facts.resumed
            assert fetched.address == f"127.0.0.1:{server.port}"
            assert 0 < fetched.timings.handshake_s < fetched.timings.total_s
            json.dumps(fetched.as_json())
            [done] = server.app.handshakes
            assert kex.group_name(done.group) == facts.group

    run(work())


@pytest.mark.parametrize("path", ["/bytes/0", "/file/4000000", "/stream/500000"])
def test_bodies_are_complete(engine: str, path: str) -> None:
    async def work() -> None:
        async with SocketServer(engine) as server:
            fetched = await fetch(url(server, path), INSECURE)
            assert len(fetched.body) == int(path.rpartition("/")[2])

    run(work())


def test_uploads_and_methods(engine: str) -> None:
    async def work() -> None:
        async with SocketServer(engine) as server:
            body = pattern(2_500_000)
            fetched = await fetch(url(server, "/echo"), INSECURE, method="POST", body=body, headers=[("X-A", "b")])
            assert fetched.body == body
            assert (b"x-a", b"b") in list(server.app.requests[0].headers)
            head = await fetch(url(server), INSECURE, method="HEAD")
            assert (head.status, head.body, head.headers) == (200, b"", [("content-length", "100")])

    run(work())


def test_many_requests_share_a_connection(engine: str) -> None:
    async def work() -> None:
        async with SocketServer(engine) as server, connect(url(server), INSECURE) as connection:
            responses = await asyncio.gather(*(connection.request("GET", f"/bytes/{n}") for n in range(50)))
            bodies = [await response.read() for response in responses]
            assert [len(body) for body in bodies] == list(range(50))
            assert server.engine.counters()["connections_opened"] == 1

    run(work())


def test_unread_body_is_stopped_by_flow_control(engine: str) -> None:
    async def work() -> None:
        async with SocketServer(engine) as server, connect(url(server), INSECURE) as connection:
            response = await connection.request("GET", "/file/4000000")
            async for chunk in response:
                assert chunk
                break
            previous = -1
            while previous != (now := server.engine.counters()["send_bytes"]):
                previous = now
                await asyncio.sleep(0.2)
            assert now < 2_000_000
            assert len(await response.read()) > 3_000_000

    run(work())


def test_chain_is_verified_with_the_given_root(engine: str, tmp_path: Path) -> None:
    async def work() -> None:
        for kind in ("p256", "mldsa65"):
            root = tmp_path / f"{kind}.pem"
            root.write_bytes(tls_support.authority(kind).root_pem)
            async with SocketServer(engine, policy=tls_support.policy(tls_support.chain(kind))) as server:
                options = Options(cafile=root, resolve=("127.0.0.1", server.port), timeout_s=5.0)
                fetched = await fetch(f"https://{tls_support.NAME}:{server.port}/bytes/5", options)
                assert fetched.status == 200
                with pytest.raises(Unreachable, match=r"^cannot talk to .*TLS alert"):
                    await fetch(f"https://other.test:{server.port}/bytes/5", options)
                with pytest.raises(Unreachable, match=r"^cannot talk to .*the handshake was refused here: TLS alert"):
                    await fetch(url(server), Options(timeout_s=5.0))

    run(work())


def test_retry_hello_retry_request_and_resumption_are_reported(engine: str) -> None:
    async def work() -> None:
        policy = tls_support.policy(tickets=tickets())
        async with SocketServer(engine, policy=policy, limits=Limits(retry_threshold=0)) as server:
            options = Options(insecure=True, groups=(kex.X25519, kex.X25519_MLKEM768), shares=(kex.X25519,))
            async with connect(url(server), options) as connection:
                facts = connection.handshake
                assert (facts.retry, facts.hello_retry_request, facts.group) == (True, True, "X25519MLKEM768")
                await (await connection.request("GET")).read()
            async with connect(url(server), Options(insecure=True, session=connection.sessions[-1])) as again:
                assert again.handshake.resumed
                assert again.handshake.signature is None
                assert await (await again.request("GET")).read() == pattern(100)

    run(work())


def test_probe_reports_the_features_of_a_server(engine: str) -> None:
    async def work() -> None:
        only_pq = tls_support.policy(permit=["light", "balanced", "secure"], tickets=tickets())
        async with SocketServer(engine, policy=only_pq) as server:
            report = await probe(url(server), INSECURE)
            accepted = {name for name, answer in report.groups.items() if answer == "accepted"}
            assert accepted == {"X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024"}
            assert "alert 40" in report.groups["x25519"]
            assert report.resumes
            assert report.address_token
            assert report.prefers_post_quantum
            document = json.loads(json.dumps(report.as_json()))
            assert document["h3"] is True
            assert document["handshake"]["group"] == "X25519MLKEM768"

    run(work())


# --- errors -----------------------------------------------------------------------------------------------------------


def refused_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_closed_port_is_reported_at_once() -> None:
    port = refused_port()
    with pytest.raises(Unreachable, match=rf"^cannot reach https://127.0.0.1:{port}/: Connection refused"):
        run(fetch(f"https://127.0.0.1:{port}/", INSECURE))


def test_silent_server_is_reported_after_the_timeout() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{deaf.getsockname()[1]}/"
        with pytest.raises(Unreachable, match=r"^cannot reach .*: no answer from 127.0.0.1:\d+ within 0.3 s"):
            run(fetch(address, Options(insecure=True, timeout_s=0.3)))


@pytest.mark.parametrize("bad", ["http://a/", "https://", "a", "https://a:99999/", "ftp://a/"])
def test_urls_other_than_https_are_refused(bad: str) -> None:
    with pytest.raises(CannotDo, match=r"^cannot use "):
        split_url(bad)


def test_invalid_ca_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot use .*nothing.pem"):
        run(fetch("https://127.0.0.1:1/", Options(cafile=tmp_path / "nothing.pem")))


def test_no_common_group_timeout_and_reset_have_messages(engine: str) -> None:
    async def work() -> None:
        policy = tls_support.policy(permit=["balanced"])
        async with SocketServer(engine, policy=policy) as server:
            with pytest.raises(Unreachable, match=r"the server refused the handshake: TLS alert 40"):
                await fetch(url(server), Options(insecure=True, groups=(kex.X25519,)))
            with pytest.raises(Unreachable, match=r"^cannot get a response from .* nothing arrived for 0.5 s"):
                await fetch(url(server, "/hang"), Options(insecure=True, timeout_s=0.5))
            server.app.handler = lambda request: server.engine.reset(request.stream, 0x10C)
            with pytest.raises(VelocityError, match=r"^cannot get .*: the server reset the request with code 0x10c"):
                await fetch(url(server), INSECURE)

    run(work())


def test_close_during_a_response_has_a_message(engine: str) -> None:
    async def work() -> None:
        async with SocketServer(engine) as server, connect(url(server), INSECURE) as connection:
            asked = asyncio.ensure_future(connection.request("GET", "/hang"))
            while not server.app.requests:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
            server.engine.close(server.app.requests[0].connection, 0x102, "out of order")
            server.flush()
            with pytest.raises(Unreachable, match=r"closed the connection with code 0x102: out of order"):
                await asked

    run(work())
