"""HTTP/2 servers that others wrote behind the native engine: nghttpd, nginx and Caddy, with and without TLS."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import sid
from tests.support.certificates import Certificate, make_certificate
from tests.support.engine_driver import pattern
from tests.support.upstream_world import UpstreamWorld
from tests.support.waiting import poll
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolSettings, TlsClient

pytestmark = [pytest.mark.interop, pytest.mark.slow]
pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

LENGTH = 2_000_000

NGINX = """
daemon off;
master_process off;
pid DIR/pid;
error_log DIR/errors;
events {}
http {
    access_log off;
    client_body_temp_path DIR/body;
    proxy_temp_path DIR/proxy;
    fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi;
    scgi_temp_path DIR/scgi;
    client_max_body_size 10m;
    keepalive_requests 20;
    http2 on;
    server {
        listen 127.0.0.1:PORT;
        listen 127.0.0.1:SECURE ssl;
        ssl_certificate CERT;
        ssl_certificate_key KEY;
        root DIR/root;
        location /put { return 200 "$request_method $content_length"; }
    }
}
"""

CADDY = """
{
    admin off
    auto_https off
    storage file_system DIR/caddy
    servers {
        protocols h1 h2 h2c
    }
}
http://:PORT {
    bind 127.0.0.1
    root * DIR/root
    file_server
}
https://:SECURE {
    bind 127.0.0.1
    tls CERT KEY
    root * DIR/root
    file_server
}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """Ports of one that runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.secure = free_port(), free_port()
        self.certificate: Certificate = make_certificate(directory, "upstream.test", "127.0.0.1")

    def filled(self, text: str) -> str:
        words = {"DIR": self.directory, "PORT": self.port, "SECURE": self.secure}
        words |= {"CERT": self.certificate.chain, "KEY": self.certificate.key}
        for word, value in words.items():
            text = text.replace(word, str(value))
        return text

    def commands(self, name: str) -> Iterator[Sequence[str | Path]]:
        path = self.directory / "conf"
        if name == "nginx":
            path.write_text(self.filled(NGINX))
            yield "nginx", "-c", path
        elif name == "Caddy":
            path.write_text(self.filled(CADDY))
            yield "caddy", "run", "--adapter", "caddyfile", "--config", path
        else:
            root = ("-d", self.directory / "root", "--address=127.0.0.1")
            yield "nghttpd", *root, "--no-tls", str(self.port)
            yield "nghttpd", *root, str(self.secure), self.certificate.key, self.certificate.chain

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[None]:
        processes = []
        with (self.directory / "log").open("wb") as log:
            for argv in self.commands(name):
                command = sid.command(*argv)
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        try:
            poll(lambda: listens(self.port) and listens(self.secure), f"{name} listens", 15)
            yield
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)

    def world(self, *, tls: bool) -> UpstreamWorld:
        client = TlsClient("upstream.test", ca_pem=self.certificate.chain.read_bytes()) if tls else None
        settings = PoolSettings(protocol="auto" if tls else "h2", tls=client)
        return UpstreamWorld([("127.0.0.1", self.secure if tls else self.port)], settings)


@pytest.fixture(scope="module", params=["nghttpd", "nginx", "Caddy"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    sid.require("test")
    directory = tmp_path_factory.mktemp("h2")
    for folder in (directory, *directory.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    (directory / "root").mkdir()
    (directory / "root" / "large").write_bytes(pattern(LENGTH))
    (directory / "root" / "small").write_bytes(b"small")
    server = Server(directory)
    with server.running(request.param):
        yield server


@pytest.mark.parametrize("tls", [False, True])
def test_files_arrive_whole_and_share_connections(server: Server, tls: bool) -> None:
    world = server.world(tls=tls)
    first = world.get("/small")
    assert (first.status, bytes(first.body)) == (200, b"small")
    client = world.client()
    responses = [client.get("/large"), *(client.get("/small") for _ in range(15)), client.get("/large")]
    world.until(lambda: all(response.over for response in responses))
    assert [len(response.body) for response in responses] == [LENGTH, *[5] * 15, LENGTH]
    assert bytes(responses[0].body) == bytes(responses[-1].body) == pattern(LENGTH)
    assert {end.outcome for end in world.ends} == {Outcome.COMPLETE}
    assert world.counts().connects == 1
    world.close()


def test_a_missing_file(server: Server) -> None:
    world = server.world(tls=False)
    assert world.get("/nothing").status == 404
    world.close()


def test_a_connection_that_the_server_ends_after_some_requests_is_replaced(server: Server) -> None:
    """nginx sends GOAWAY after `keepalive_requests`; no request is lost. The others never do."""
    world = server.world(tls=False)
    for n in range(45):
        assert world.get(f"/small?{n}").status == 200
    assert [end.outcome for end in world.ends] == [Outcome.COMPLETE] * 45
    world.close()
