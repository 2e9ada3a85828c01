"""An upstream by TLS is the one that was named, a client certificate needs no file, and ALPN chooses the protocol."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.certificates import Certificate, make_certificate
from tests.support.h2_upstream import H2Upstream, h2_upstream
from tests.support.scripted_upstream import CLOSE, GOODBYE, NEXT, ScriptedUpstream, Step, flood, send
from tests.support.source_tree import ROOT
from tests.support.waiting import until
from velocity_edge.errors import VelocityError
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import ForwardRequest, PoolSettings, TlsClient
from workers.proxy.client import AttemptFailed, Client, fetch, tls

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
GET = ForwardRequest(b"GET", b"/", b"up.test", [])
LIMIT_NS = 5_000_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("upstream"), "up.test")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("client"), "client.test")


def server_context(certificate: Certificate, *alpn: str, client: Certificate | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if client is not None:
        context.load_verify_locations(client.chain)
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # refuses within the handshake, not after it
    return context


def settings(trust: TlsClient, protocol: str = "h1") -> PoolSettings:
    return PoolSettings(protocol=protocol, tls=trust, connect_timeout_ns=LIMIT_NS)  # type: ignore[arg-type]


async def ask(address: object, wanted: PoolSettings) -> tuple[int, bytes]:
    client = Client(wanted)
    client.use_addresses([address])  # type: ignore[list-item]
    try:
        response = await client.request(GET)
        return response.status, b"".join([chunk async for chunk in response.body])
    finally:
        client.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"verify": False, "ca_pem": None}, ""),
        ({"server_name": "other.test"}, "Hostname mismatch"),
        ({"server_name": "other.test", "verify": False}, ""),
        ({"ca_pem": None}, "self-signed certificate"),
    ],
)
async def test_the_server_is_the_one_that_was_named(
    certificate: Certificate, change: dict[str, object], reason: str
) -> None:
    trust = replace(TlsClient("up.test", ca_pem=certificate.chain.read_bytes()), **change)  # type: ignore[arg-type]
    with ScriptedUpstream(lambda _: [send(HELLO), NEXT], tls=server_context(certificate)) as upstream:
        if not reason:
            assert await ask(upstream.address, settings(trust)) == (200, b"hello")
            return
        with pytest.raises(AttemptFailed) as caught:
            await ask(upstream.address, settings(trust))
        assert caught.value.outcome == Outcome.CONNECT_FAILED
        assert reason in caught.value.reason


@pytest.mark.parametrize("with_certificate", [True, False])
async def test_a_client_certificate_is_shown(
    certificate: Certificate, own: Certificate, with_certificate: bool
) -> None:
    trust = TlsClient("up.test", ca_pem=certificate.chain.read_bytes())
    if with_certificate:
        trust = replace(trust, certificate_pem=own.chain.read_bytes(), private_key_pem=own.key.read_bytes())
    context = server_context(certificate, client=own)
    with ScriptedUpstream(lambda _: [send(HELLO), NEXT], tls=context) as upstream:
        if with_certificate:
            assert await ask(upstream.address, settings(trust)) == (200, b"hello")
            return
        with pytest.raises(AttemptFailed) as caught:
            await ask(upstream.address, settings(trust))
        assert caught.value.outcome == Outcome.CONNECT_FAILED


def test_unusable_material_is_an_error_before_any_connection(certificate: Certificate, own: Certificate) -> None:
    bad = [
        TlsClient("up.test", ca_pem=b"no certificate"),
        TlsClient("up.test", certificate_pem=b"none", private_key_pem=b"none"),
        TlsClient("up.test", certificate_pem=own.chain.read_bytes(), private_key_pem=certificate.key.read_bytes()),
        TlsClient("up.test", certificate_pem=own.chain.read_bytes()),
    ]
    for trust in bad:
        with pytest.raises(VelocityError, match=r"^cannot use "):
            Client(settings(trust))


@pytest.mark.parametrize(
    ("offered", "wanted", "version"),
    [
        (("h2", "http/1.1"), "auto", "h2"),
        (("http/1.1",), "auto", "h1"),
        ((), "auto", "h1"),
        (("h2",), "h2", "h2"),
        (("http/1.1",), "h2", ""),
        (("h2", "http/1.1"), "h1", "h1"),
    ],
)
async def test_alpn_chooses_the_protocol(
    certificate: Certificate, offered: tuple[str, ...], wanted: str, version: str
) -> None:
    trust = TlsClient("up.test", ca_pem=certificate.chain.read_bytes())
    context = server_context(certificate, *offered)
    if version == "h2":

        def script(parser: object, stream: int, _fields: object) -> None:
            parser.send_headers(stream, [(b":status", b"200")])  # type: ignore[attr-defined]
            parser.send_data(stream, b"hello", end_stream=True)  # type: ignore[attr-defined]

        async with h2_upstream(H2Upstream(script), context) as upstream:
            assert await ask(upstream.address, settings(trust, wanted)) == (200, b"hello")
            assert upstream.requests[0][b":scheme"] == b"https"
        return
    with ScriptedUpstream(lambda _: [send(HELLO), NEXT], tls=context) as plain:
        if version:
            assert await ask(plain.address, settings(trust, wanted)) == (200, b"hello")
            return
        with pytest.raises(AttemptFailed) as caught:
            await ask(plain.address, settings(trust, wanted))
        assert caught.value.outcome == Outcome.CONNECT_FAILED


async def test_a_handshake_that_does_not_come_to_its_end_is_limited(certificate: Certificate) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    trust = TlsClient("up.test", ca_pem=certificate.chain.read_bytes())
    with pytest.raises(AttemptFailed) as caught:
        await ask(server.sockets[0].getsockname(), replace(settings(trust), connect_timeout_ns=100_000_000))
    assert caught.value.outcome == Outcome.CONNECT_TIMEOUT
    server.close()


async def test_a_url_with_https_is_verified_by_its_name(certificate: Certificate) -> None:
    with ScriptedUpstream(lambda _: [send(HELLO), NEXT], tls=server_context(certificate)) as upstream:

        class Names:
            async def resolve(self, host: str) -> list[str]:
                return {"up.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}[host]

        trust = TlsClient("", ca_pem=certificate.chain.read_bytes())
        url = f"https://up.test:{upstream.port}/a?b"
        fetched = await fetch(url, tls=trust, timeout_s=5, max_bytes=100, resolver=Names())
        assert (fetched.status, fetched.body) == (200, b"hello")
        assert upstream.requests[0].head.startswith(b"GET /a?b HTTP/1.1\r\nhost: up.test:")
        with pytest.raises(AttemptFailed, match="Hostname mismatch"):
            await fetch(url.replace("up.", "other."), tls=trust, timeout_s=5, max_bytes=100, resolver=Names())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_worker_without_privileges_can_use_a_client_certificate_and_the_systems_authorities(own: Certificate) -> None:
    program = f"""
import pwd
from velocity_edge.http.upstreams import TlsClient
from velocity_edge.machine.worker_user import User
from workers.process import privileges
from workers.proxy.client import tls
nobody = pwd.getpwnam("nobody")
tls.remember_authorities()
privileges.drop(User("nobody", nobody.pw_uid, nobody.pw_gid))
made = tls.context(TlsClient("a.test", None, {own.chain.read_bytes()!r}, {own.key.read_bytes()!r}), ("h2",))
print(len(made.get_ca_certs()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 0) == Path("/etc/ssl/certs/ca-certificates.crt").exists()


def test_contexts_are_built_once(certificate: Certificate) -> None:
    trust = TlsClient("up.test", ca_pem=certificate.chain.read_bytes())
    assert tls.context(trust, ("h2",)) is tls.context(replace(trust), ("h2",))


@pytest.mark.parametrize(("end", "whole"), [(GOODBYE, True), (CLOSE, False)], ids=["close_notify", "only FIN"])
async def test_a_body_that_ends_with_the_connection_needs_the_end_of_tls(
    certificate: Certificate, end: Step, whole: bool
) -> None:
    """RFC 9112 section 9.8: whoever can cut a connection must not be able to shorten a body."""
    steps = [send(b"HTTP/1.0 200 OK\r\n\r\nhello"), end]
    trust = TlsClient("up.test", ca_pem=certificate.chain.read_bytes())
    with ScriptedUpstream(lambda _: steps, tls=server_context(certificate)) as upstream:
        if whole:
            assert await ask(upstream.address, settings(trust)) == (200, b"hello")
            return
        with pytest.raises(AttemptFailed) as caught:
            await ask(upstream.address, settings(trust))
        assert caught.value.outcome == Outcome.TRUNCATED


async def test_a_long_body_passes_by_tls_and_waits_for_its_reader(certificate: Certificate) -> None:
    n_bytes = 4 * 1024 * 1024
    steps = [send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n_bytes), flood(b"x" * 65536, n_bytes), NEXT]
    trust = TlsClient("up.test", ca_pem=certificate.chain.read_bytes())
    with ScriptedUpstream(lambda _: steps, tls=server_context(certificate)) as upstream:
        client = Client(settings(trust))
        client.use_addresses([upstream.address])
        response = await client.request(GET)
        await until(lambda: response.attempt.response_bytes, "the first bytes")
        before = -1
        while before != response.attempt.response_bytes:
            before = response.attempt.response_bytes
            await asyncio.sleep(0.05)
        assert before < 1_000_000
        assert sum([len(chunk) async for chunk in response.body]) == n_bytes
        client.close()
