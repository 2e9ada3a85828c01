"""HTTP/2 by ALPN: what a pool offers, what the upstream chooses, and WebSocket where it chose HTTP/2."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from tests.native.test_upstreams_h2 import TUNNELS, hello, websocket
from tests.native.test_upstreams_tls import HELLO, Server
from tests.support.certificates import Certificate, make_certificate
from tests.support.engine_driver import pattern
from tests.support.h2_script import H2Site
from tests.support.upstream_world import Upstream, forwarding, read_body, read_head
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolSettings, TlsClient

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path, "upstream.test")


class Both:
    """A server that speaks what was negotiated."""

    def __init__(self, certificate: Certificate, site: H2Site, *protocols: str) -> None:
        self.site = site
        self.server = Server(certificate)
        self.server.context.set_alpn_protocols(protocols)
        self.chosen: list[str | None] = []
        self.heads: list[bytes] = []
        self.script = self.server.script(self._run)

    def _run(self, connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        self.chosen.append(connection.selected_alpn_protocol())
        if self.chosen[-1] == "h2":
            self.site.script(connection)
            return
        while head := read_head(connection):
            self.heads.append(head)
            read_body(connection, head)
            connection.sendall(HELLO)


def settings(certificate: Certificate, protocol: str) -> PoolSettings:
    tls = TlsClient("upstream.test", ca_pem=certificate.chain.read_bytes())
    return PoolSettings(protocol=protocol, tls=tls)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("protocol", "offered", "chosen"),
    [
        ("auto", ("h2", "http/1.1"), "h2"),
        ("auto", ("http/1.1",), "http/1.1"),
        ("h2", ("h2", "http/1.1"), "h2"),
        ("h1", ("h2", "http/1.1"), "http/1.1"),
    ],
)
def test_what_is_negotiated_is_spoken(
    certificate: Certificate, protocol: str, offered: tuple[str, ...], chosen: str
) -> None:
    both = Both(certificate, H2Site(on_request=hello), *offered)
    with Upstream(both.script) as upstream, forwarding(upstream, settings=settings(certificate, protocol)) as world:
        client = world.client()
        responses = [client.get(f"/{n}") for n in range(3)]
        world.until(lambda: all(response.done for response in responses))
        assert {bytes(response.body) for response in responses} == {b"hello"}
        assert set(both.chosen) == {chosen}
    if chosen == "h2":
        assert both.site.requests[0].fields[b":scheme"] == b"https"


def test_an_upstream_that_does_not_choose_http_2_is_not_spoken_to_by_it(certificate: Certificate) -> None:
    both = Both(certificate, H2Site(on_request=hello), "http/1.1")
    with Upstream(both.script) as upstream, forwarding(upstream, settings=settings(certificate, "h2")) as world:
        assert world.get("/").status == 502
        end = world.ended()
    assert end.outcome == Outcome.CONNECT_FAILED
    assert both.heads == []


def test_large_bodies_pass_by_tls(certificate: Certificate) -> None:
    site = H2Site()
    site.on_end = lambda link, stream: link.answer(stream, link.streams[stream].body)
    both = Both(certificate, site, "h2")
    with Upstream(both.script) as upstream, forwarding(upstream, settings=settings(certificate, "auto")) as world:
        assert bytes(world.get("/", "POST", pattern(500_000)).body) == pattern(500_000)


def test_requests_share_what_was_negotiated_before(certificate: Certificate) -> None:
    """The first connection shows that the upstream has HTTP/2; later ones wait for it together."""
    both = Both(certificate, H2Site(on_request=hello), "h2", "http/1.1")
    with Upstream(both.script) as upstream, forwarding(upstream, settings=settings(certificate, "auto")) as world:
        assert world.get("/").status == 200
        client = world.client()
        responses = [client.get(f"/{n}") for n in range(40)]
        world.until(lambda: all(response.done for response in responses))
        assert both.chosen == ["h2"]


def test_a_websocket_uses_http_1_1_where_both_are_offered(certificate: Certificate) -> None:
    """Few servers have it over HTTP/2, and what one has is known only when it is connected."""
    both = Both(certificate, H2Site(on_request=hello), "h2", "http/1.1")
    with (
        Upstream(both.script) as upstream,
        forwarding(upstream, settings=settings(certificate, "auto"), request=TUNNELS) as world,
    ):
        _, response = websocket(world)
        world.until(lambda: response.done)
    assert both.chosen == ["http/1.1"]
    assert b"upgrade: websocket" in both.heads[0].lower()


def test_a_websocket_over_http_2_by_tls(certificate: Certificate) -> None:
    site = H2Site(on_request=lambda link, stream, request: link.head(stream), connect_protocol=True)
    site.on_data = lambda link, stream, data: link.send(stream, data.upper(), end=False)
    site.on_end = lambda link, stream: link.send(stream, b"")
    both = Both(certificate, site, "h2")
    with (
        Upstream(both.script) as upstream,
        forwarding(upstream, settings=settings(certificate, "h2"), request=TUNNELS) as world,
    ):
        client, response = websocket(world)
        world.until(lambda: response.status == 200)
        client.quic.send_stream_data(response.stream_id, b"\0\4ping", end_stream=True)
        world.until(lambda: response.done)
    assert bytes(response.body) == b"PING"
    assert site.requests[0].fields[b":protocol"] == b"websocket"
