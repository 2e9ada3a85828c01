"""TLS to upstreams by libssl: who is believed, client certificates, resumption, and large bodies through small buffers.

The server is the standard library's ssl.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from pathlib import Path

import pytest

from tests.support.certificates import Certificate, make_certificate
from tests.support.engine_driver import pattern
from tests.support.upstream_world import Script, Upstream, UpstreamWorld, forwarding, read_body, read_head
from velocity_edge.errors import VelocityError
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolSettings, TlsClient

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Server:
    """A TLS server's context, and what its handshakes were like."""

    def __init__(self, certificate: Certificate, client: Certificate | None = None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate.chain, certificate.key)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.names: list[str | None] = []
        self.context.sni_callback = lambda _, name, __: self.names.append(name)
        if client is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(client.chain)
        self.handshakes: list[ssl.SSLSocket] = []

    def script(self, then: Script) -> Script:
        def script(connection: socket.socket) -> None:
            with contextlib.suppress(ssl.SSLError), self.context.wrap_socket(connection, server_side=True) as tls:
                self.handshakes.append(tls)
                then(tls)

        return script


def hello(connection: socket.socket) -> None:
    while head := read_head(connection):
        read_body(connection, head)
        connection.sendall(HELLO)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path, "upstream.test", "127.0.0.1")


def settings(ca: Certificate | None, name: str = "upstream.test", **options: object) -> PoolSettings:
    pem = None if ca is None else ca.chain.read_bytes()
    return PoolSettings(tls=TlsClient(name, ca_pem=pem, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["upstream.test", "127.0.0.1"])
def test_a_verified_server(certificate: Certificate, name: str) -> None:
    server = Server(certificate)
    with (
        Upstream(server.script(hello)) as upstream,
        forwarding(upstream, settings=settings(certificate, name)) as world,
    ):
        for _ in range(2):
            assert bytes(world.get().body) == b"hello"
        assert world.ends[1].reused
        assert world.counts().idle == 1
    assert server.names == [name if name == "upstream.test" else None]  # an address is no server name (RFC 6066)


REFUSED = {
    "other name": ({"name": "other.test"}, "hostname mismatch"),
    "other address": ({"name": "127.0.0.2"}, "IP address mismatch"),
    "authority": ({"ca": None}, "self-signed certificate"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_server_that_is_not_believed(
    certificate: Certificate, tmp_path: Path, change: dict[str, str | None], reason: str
) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other", "upstream.test")
    ca = other if "ca" in change else certificate
    with (
        Upstream(Server(certificate).script(hello)) as upstream,
        forwarding(upstream, settings=settings(ca, change.get("name") or "upstream.test")) as world,
    ):
        assert world.get().status == 502
        end = world.ended()
        assert end.outcome == Outcome.CONNECT_FAILED
        assert end.reason.lower().startswith("tls: ")
        assert reason.lower() in end.reason.lower()
        assert (world.counts().open, world.counts().connects_failed) == (0, 1)


def test_without_verification(certificate: Certificate) -> None:
    with (
        Upstream(Server(certificate).script(hello)) as upstream,
        forwarding(upstream, settings=settings(None, "other.test", verify=False)) as world,
    ):
        assert world.get().status == 200


@pytest.mark.parametrize("given", [True, False])
def test_a_client_certificate(certificate: Certificate, tmp_path: Path, given: bool) -> None:
    (tmp_path / "client").mkdir()
    ours = make_certificate(tmp_path / "client", "edge.test")
    identity = {"certificate_pem": ours.chain.read_bytes(), "private_key_pem": ours.key.read_bytes()} if given else {}
    server = Server(certificate, client=ours)
    with (
        Upstream(server.script(hello)) as upstream,
        forwarding(upstream, settings=settings(certificate, **identity)) as world,
    ):
        assert world.get().status == (200 if given else 502)
        assert world.ended().outcome in (Outcome.COMPLETE,) if given else (Outcome.CLOSED_EARLY, Outcome.CONNECT_FAILED)


def test_a_session_is_resumed(certificate: Certificate) -> None:
    reused: list[bool] = []

    def once(connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        read_head(connection)
        reused.append(bool(connection.session_reused))
        connection.sendall(HELLO.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))

    with (
        Upstream(Server(certificate).script(once)) as upstream,
        forwarding(upstream, settings=settings(certificate)) as world,
    ):
        for _ in range(3):
            assert world.get().status == 200
    assert reused == [False, True, True]


def test_large_bodies(certificate: Certificate) -> None:
    def echo(connection: socket.socket) -> None:
        head = read_head(connection)
        body = read_body(connection, head)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        connection.recv(1)

    body = pattern(700_000)
    with (
        Upstream(Server(certificate).script(echo)) as upstream,
        forwarding(upstream, settings=settings(certificate)) as world,
    ):
        assert bytes(world.get("/", "POST", body).body) == body


def test_a_client_that_is_behind(certificate: Certificate) -> None:
    """What libssl has decrypted already is read when the client goes on, though the socket has nothing."""

    def much(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + pattern(3_000_000))
        connection.recv(1)

    with (
        Upstream(Server(certificate).script(much)) as upstream,
        forwarding(upstream, settings=settings(certificate)) as world,
    ):
        client = world.client()
        response = client.get("/")
        while not response.over:
            client.paused = not client.paused
            for _ in range(3):
                select.select([world.forwarding], [], [], 0.005)
                world.turn()
                world.run(seconds=0.05)
        assert bytes(response.body) == pattern(3_000_000)


def test_an_end_without_close_notify_cuts_a_body_without_a_length(certificate: Certificate) -> None:
    def cut(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        connection.shutdown(socket.SHUT_RDWR)

    with (
        Upstream(Server(certificate).script(cut)) as upstream,
        forwarding(upstream, settings=settings(certificate)) as world,
    ):
        assert world.get().reset is not None
        assert world.ended().outcome == Outcome.TRUNCATED


def test_a_server_without_tls() -> None:
    def plain(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    with Upstream(plain) as upstream, forwarding(upstream, settings=settings(None, verify=False)) as world:
        assert world.get().status == 502
        assert (world.ended().outcome, world.ended().reason) == (Outcome.CONNECT_FAILED, "TLS: wrong version number")


@pytest.mark.parametrize(
    "material",
    [
        {"ca_pem": b""},
        {"ca_pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
        {"verify": False, "certificate_pem": b"nonsense", "private_key_pem": b""},
        {"verify": False, "certificate_pem": "own", "private_key_pem": b"nonsense"},
        {"verify": False, "certificate_pem": "own", "private_key_pem": "other"},
        {"verify": False, "certificate_pem": "own"},
    ],
)
def test_unusable_material_is_refused(certificate: Certificate, tmp_path: Path, material: dict[str, object]) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other", "x")
    if material.get("certificate_pem") == "own":
        material = {**material, "certificate_pem": certificate.chain.read_bytes()}
    if material.get("private_key_pem") == "other":
        material = {**material, "private_key_pem": other.key.read_bytes()}
    world = UpstreamWorld([])
    with pytest.raises(VelocityError, match=r"^cannot use "):
        world.forwarding.open(PoolSettings(tls=TlsClient("upstream.test", **material)))  # type: ignore[arg-type]
    assert world.get().status == 502
