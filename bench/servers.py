"""The servers that are compared: how each is configured, started on one core, and detected as ready.

All serve the same directory over HTTP/3 with the same ECDSA P-256 certificate, one process or thread for work, without
an access log. Otherwise each has its documented defaults, so that none is tuned against the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.lab import SERVER_ADDRESS, BenchError, Lab
from tests.support.certificates import Certificate

VENV = Path(sys.executable).parent
FILES = {"tiny": 16, "1k": 1024, "1m": 1 << 20, "100m": 100 << 20}


@dataclass(frozen=True, slots=True)
class Site:
    """The files that every server serves, and where it may write. All are below /tmp, which the sid root shares."""

    directory: Path
    root: Path
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path


NGINX = """
daemon off;
worker_processes 1;
user root;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    sendfile on;
    open_file_cache max=100;
    keepalive_requests 1000000000;
    ssl_protocols TLSv1.3;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    quic_gso on;
    server {{
        listen {address}:{port} quic reuseport;
        root {root};
    }}
}}
"""

CADDY = """
{{
    admin off
    auto_https off
    storage file_system {directory}/caddy
    servers {{
        protocols h3
    }}
}}
https://localhost:{port}, https://{address}:{port} {{
    bind {address}
    tls {certificate} {key}
    root * {root}
    file_server
}}
"""


#: What starts a server: its arguments and its environment.
Command = Callable[[Lab, Site, int], tuple[list[str], dict[str, str]]]
#: Name -> (command, whether it speaks X25519MLKEM768).
Table = Mapping[str, tuple[Command, bool]]

#: One thread at a time; and X25519MLKEM768, which Debian's Go programs omit unless it is enabled.
GO = {"GOMAXPROCS": "1", "GODEBUG": "tlsmlkem=1"}


def _velocity(engine: str, *dispatch: str) -> Command:
    def command(lab: Lab, site: Site, port: int) -> tuple[list[str], dict[str, str]]:
        argv = lab.server_command(
            *(VENV / "velocity-edge", "serve", "--listen", f"{SERVER_ADDRESS}:{port}", "--root", site.root),
            *("--cert", site.certificate.chain, "--key", site.certificate.key),
            *("--workers", "1", "--engine", engine, *(dispatch or ("--dispatch", "socket"))),
        )
        directory = site.directory / f"velocity-{engine}-{port}"
        directory.mkdir(mode=0o700, exist_ok=True)
        places = ("RUNTIME", "STATE", "CACHE")
        return argv, {f"VELOCITY_{place}_DIR": str(directory / place.lower()) for place in places}

    return command


def _aioquic(lab: Lab, site: Site, port: int) -> tuple[list[str], dict[str, str]]:
    program = Path(__file__).parent / "peers" / "aioquic_server.py"
    argv = lab.server_command(
        *(sys.executable, program, "--host", SERVER_ADDRESS, "--port", str(port), "--root", site.root),
        *("--certificate", site.certificate.chain, "--key", site.certificate.key),
    )
    return argv, {}


def configured(template: str, name: str, *argv: str) -> Command:
    """Return the command of a server of the sid root, whose configuration file is made from *template*."""

    def command(lab: Lab, site: Site, port: int) -> tuple[list[str], dict[str, str]]:
        path = site.directory / name
        path.write_text(
            template.format(
                address=SERVER_ADDRESS,
                port=port,
                root=site.root,
                certificate=site.certificate.chain,
                key=site.certificate.key,
                directory=site.directory,
            )
        )
        return lab.sid_server_command(*argv, path), GO

    return command


SERVERS: Table = {
    "velocity-edge native": (_velocity("native"), True),
    "velocity-edge portable": (_velocity("portable"), True),
    # For bench/attacks.py: the shield has its cost also without an attack.
    "velocity-edge native, XDP": (_velocity("native", "--dispatch", "xdp", "--xdp", "wire"), True),
    "nginx": (configured(NGINX, "nginx.conf", "nginx", "-c"), True),
    "Caddy": (configured(CADDY, "Caddyfile", "caddy", "run", "--adapter", "caddyfile", "--config"), True),
    "stock aioquic": (_aioquic, False),
}


def start(lab: Lab, site: Site, name: str, port: int, table: Table = SERVERS) -> Server:
    """Start a server and wait until it answers the load generator. Raises BenchError with the end of its log."""
    command, post_quantum = table[name]
    argv, environment = command(lab, site, port)
    log = site.directory / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
    server = Server(name, port, process, log)
    deadline = time.monotonic() + 15
    groups = "X25519MLKEM768" if post_quantum else "X25519"
    probe = ("requests", "--address", SERVER_ADDRESS, "--port", str(port), "--path", "/1k", "--groups", groups)
    while time.monotonic() < deadline and process.poll() is None:
        said = subprocess.run(
            lab.load_command(*probe, "--bytes", "1024", "--warmup", "0", "--duration", "0.2"),
            capture_output=True,
            text=True,
            check=False,
        )
        if said.returncode == 0 and '"requests": 0' not in said.stdout and '"bad_answers": 0' in said.stdout:
            return server
        time.sleep(0.2)
    stop(server)
    raise BenchError(f"{name} does not serve: {log.read_text(errors='replace')[-1500:].strip()}")


def stop(server: Server) -> None:
    """End a server and its children."""
    for number, patience_s in ((signal.SIGINT, 5), (signal.SIGKILL, 5)):
        if server.process.poll() is None:
            os.killpg(server.process.pid, number)
            try:
                server.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
    # Processes that outlived their parent (a worker whose supervisor was killed).
    try:
        os.killpg(server.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def make_site(directory: Path, certificate: Certificate) -> Site:
    """Fill *directory* with the files of the benchmark."""
    root = directory / "root"
    root.mkdir()
    for name, n_bytes in FILES.items():
        (root / name).write_bytes(os.urandom(n_bytes))
    directory.chmod(0o755)
    return Site(directory, root, certificate)
