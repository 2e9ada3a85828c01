"""The servers that are compared: our node, nginx and Caddy, each with a site of files and a proxy on one HTTP/3 port.

`localhost` is the site: `/file.txt`, `/dir/index.html`. Another name is a proxy to the recorder. Their configurations
are what their manuals show for this; nothing is made stricter or more lenient.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.compare.cases import LETTERS
from tests.support import sid
from tests.support.certificates import make_certificate
from tests.support.node import running_node
from tests.support.waiting import poll

OURS = ("velocity-edge native", "velocity-edge portable")
PEERS = ("nginx", "Caddy")

VELOCITY = """
server:
  listen: "127.0.0.1:0"
  tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}
  workers: 1
  engine: %s
content:
  sites:
    - {hostname: localhost, root: %s}
  proxies:
    - {hostname: proxied.test, upstream: "http://127.0.0.1:%d", via: true}
"""

NGINX = """
daemon off; worker_processes 1; user root; pid %(d)s/nginx.pid; error_log %(d)s/nginx-error.log;
events { worker_connections 1000; }
http {
    access_log off;
    ssl_certificate %(cert)s;
    ssl_certificate_key %(key)s;
    ssl_protocols TLSv1.3;
    client_body_temp_path %(d)s/body;
    proxy_temp_path %(d)s/proxy;
    server {
        listen 127.0.0.1:%(port)d quic reuseport default_server;
        server_name localhost;
        root %(root)s;
        default_type text/plain;
    }
    server {
        listen 127.0.0.1:%(port)d quic;
        server_name proxied.test;
        location / {
            proxy_pass http://127.0.0.1:%(up)d;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }
    }
}
"""

CADDY = """
{
    admin off
    auto_https off
    storage file_system %(d)s/caddy
    servers {
        protocols h3
    }
}
https://localhost:%(port)d {
    bind 127.0.0.1
    tls %(cert)s %(key)s
    root * %(root)s
    file_server
}
https://proxied.test:%(port)d {
    bind 127.0.0.1
    tls %(cert)s %(key)s
    reverse_proxy 127.0.0.1:%(up)d
}
"""


@contextlib.contextmanager
def running(name: str, upstream_port: int) -> Iterator[int]:
    """Start a server and yield its UDP port."""
    if name in OURS:
        directory = Path(tempfile.mkdtemp(prefix="ve-compare-", dir="/tmp"))
        try:
            root = _site(directory)
            engine = name.rpartition(" ")[2]
            with running_node(engine=engine, config=VELOCITY % (engine, root, upstream_port)) as node:
                yield node.port
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return
    directory = Path(tempfile.mkdtemp(prefix="ve-compare-", dir="/tmp"))
    certificate = make_certificate(directory, "localhost", "proxied.test", "127.0.0.1")
    values = {"d": directory, "cert": certificate.chain, "key": certificate.key, "root": _site(directory)}
    values |= {"port": _free_udp_port(), "up": upstream_port}
    path = directory / "conf"
    path.write_text((NGINX if name == "nginx" else CADDY) % values)
    argv = ("nginx", "-c") if name == "nginx" else ("caddy", "run", "--adapter", "caddyfile", "--config")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(sid.command(*argv, path), stdout=log, stderr=log, start_new_session=True)
    try:
        poll(lambda: process.poll() is not None or _bound(values["port"]), f"{name} listens")
        if process.poll() is not None:
            raise RuntimeError(f"cannot start {name}: {(directory / 'log').read_text()[-1000:]}")
        yield int(str(values["port"]))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def _site(directory: Path) -> Path:
    root = directory / "root"
    (root / "dir").mkdir(parents=True)
    directory.chmod(0o755)
    (root / "file.txt").write_bytes(LETTERS)
    (root / "large.txt").write_bytes(LETTERS * 50)
    (root / "dir" / "index.html").write_text("<!doctype html><title>dir</title>")
    # Older than a minute: a Last-Modified of just now is no strong validator (RFC 9110 section 8.8.2.2).
    os.utime(root / "file.txt", (1_700_000_000, 1_700_000_000))
    return root


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bound(port: object) -> bool:
    wanted = f"0100007F:{int(str(port)):04X}"
    return any(wanted in line for line in Path("/proc/net/udp").read_text().splitlines())
