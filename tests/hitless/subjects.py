"""The servers under test: the interface of a subject, and the two controls, nginx and Caddy, configured as documented.

Each serves the same site and accepts uploads at /upload, answered only when the whole body has arrived: nginx and
Caddy pass the buffered body to a second server of their own. `deeds` are the changes that can be made while it serves;
each returns the error of the change itself, and must really change something.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.hitless.network import PORT, SERVER_IP, Net
from tests.support import sid
from tests.support.waiting import poll

Deed = Callable[[], str]


class Subject(Protocol):
    """A server under test."""

    name: str
    about: str
    deeds: dict[str, Deed]
    #: It offers WebSocket over HTTP/3 (RFC 9220).
    websockets: bool

    def start(self) -> None:
        """Serve the site on SERVER_IP:PORT; return when it answers."""

    def stop(self) -> None:
        """End it."""


@dataclass(slots=True)
class Nginx:
    """nginx of the sid root with the settings its documentation gives for QUIC on several workers."""

    net: Net
    directory: Path
    name: str = "nginx"
    about: str = "Debian sid, `quic_bpf on`, `reuseport`, 2 workers"
    websockets: bool = False
    deeds: dict[str, Deed] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    generation: int = 0

    def start(self) -> None:
        """Start with quic_bpf and reuseport, two workers."""
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            (self.directory / kind).mkdir()
        self._configure()
        self.process = subprocess.Popen(
            self.net.in_server(*sid.command("nginx", "-c", self.directory / "nginx.conf")), text=True
        )
        poll(self._pid_file.exists, what="nginx to start", timeout_s=10)
        self.deeds = {"reload": self.reload}

    @property
    def _pid_file(self) -> Path:
        return self.directory / "nginx.pid"

    def _configure(self) -> None:
        self.generation += 1
        temporary = " ".join(
            f"{kind}_temp_path {self.directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.directory / "nginx.conf").write_text(
            f"""daemon off; worker_processes 2; pid {self._pid_file}; user root;
error_log {self.directory}/error.log warn; quic_bpf on; worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  {temporary} access_log off; keepalive_timeout 60s; keepalive_requests 1000000; client_max_body_size 16m;
  add_header x-generation {self.generation};
  server {{
    listen {SERVER_IP}:{PORT} quic reuseport; http3 on; server_name localhost;
    ssl_certificate {self.directory}/cert.pem; ssl_certificate_key {self.directory}/key.pem; ssl_protocols TLSv1.3;
    root {self.directory}/site;
    location /proxied/ {{
      proxy_pass http://unix:{self.directory}/upstream.sock; proxy_http_version 1.1;
      proxy_buffering off; proxy_request_buffering off;
    }}
    location /upload {{ proxy_pass http://unix:{self.directory}/taken.sock; }}
  }}
  server {{ listen unix:{self.directory}/taken.sock; location / {{ return 200 "all of it"; }} }}
}}
"""
        )

    def reload(self) -> str:
        """SIGHUP: new workers take over, old ones finish their connections."""
        self._configure()
        os.kill(int(self._pid_file.read_text()), signal.SIGHUP)
        return ""

    def stop(self) -> None:
        """SIGTERM."""
        if self.process:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int(self._pid_file.read_text()), signal.SIGTERM)
            self.process.wait(20)


@dataclass(slots=True)
class Caddy:
    """Caddy of the sid root, with default settings."""

    net: Net
    directory: Path
    name: str = "Caddy"
    about: str = "Debian sid"
    websockets: bool = False
    deeds: dict[str, Deed] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    generation: int = 0

    def start(self) -> None:
        """Start it with its admin interface on a socket."""
        self._configure()
        log = (self.directory / "caddy.log").open("a")
        self.process = subprocess.Popen(
            self.net.in_server(*self._caddy("run")), text=True, env=self._environment(), stdout=log, stderr=log
        )
        said = self.directory / "caddy.log"
        poll(lambda: "serving initial configuration" in said.read_text(), what="Caddy to start", timeout_s=20)
        self.deeds = {"reload": self.reload}

    def _caddy(self, verb: str, *options: str) -> list[str]:
        return sid.command("caddy", verb, "--config", self.directory / "Caddyfile", "--adapter", "caddyfile", *options)

    def _environment(self) -> dict[str, str]:
        # Debian's Go programs omit X25519MLKEM768 unless it is enabled.
        return {**os.environ, "GODEBUG": "tlsmlkem=1"}

    def _configure(self) -> None:
        self.generation += 1
        (self.directory / "Caddyfile").write_text(
            f"""{{
  admin unix/{self.directory}/caddy.sock
  auto_https off
  storage file_system {self.directory}/caddy
}}
https://localhost:{PORT} {{
  bind {SERVER_IP}
  tls {self.directory}/cert.pem {self.directory}/key.pem
  header x-generation {self.generation}
  reverse_proxy /upload 127.0.0.1:8081 {{
    request_buffers 16MiB
  }}
  reverse_proxy /proxied/* 127.0.0.1:8090
  root * {self.directory}/site
  file_server
}}
http://127.0.0.1:8081 {{
  bind 127.0.0.1
  respond "all of it" 200
}}
""".replace("unix/", "unix//")
        )

    def reload(self) -> str:
        """`caddy reload`."""
        self._configure()
        done = subprocess.run(
            self.net.in_server(*self._caddy("reload", "--address", f"unix/{self.directory}/caddy.sock")),
            capture_output=True,
            text=True,
            check=False,
            env=self._environment(),
            timeout=60,
        )
        return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.strip()[-200:]}"

    def stop(self) -> None:
        """SIGTERM."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()


def make_site(directory: Path, big_bytes: int) -> None:
    """The site that is served."""
    site = directory / "site"
    site.mkdir(parents=True)
    (site / "small").write_bytes(b"x" * 1024)
    (site / "big").write_bytes(os.urandom(big_bytes))


def make_certificate(directory: Path) -> None:
    """A new certificate and key in cert.pem and key.pem, each replaced atomically."""
    new = {name: directory / f".{name}.new" for name in ("cert.pem", "key.pem")}
    argv: list[Any] = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-days", "2", "-keyout", new["key.pem"], "-out", new["cert.pem"], "-subj", "/CN=localhost"]
    subprocess.run([*argv, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    for name, path in new.items():
        path.chmod(0o644)
        path.rename(directory / name)
