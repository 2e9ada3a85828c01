"""Reverse proxies compared: HTTP/3 in, the same nginx behind each of them on loopback. Part of `make bench`.

Each proxy has one worker or thread on the server's core, keep-alive connections to the upstream, and no access log; the
upstream runs on the load generator's core, so that its CPU time is not part of any figure, and no rate is the limit of
a proxy alone: compare CPU time per request. Our node has its real router and one middleware (a header), as an operator
would have. Memory per idle upstream connection: after many concurrent requests the pool is idle; what the process
has more than before, by connection, with the client's connections closed.

    python -m bench.proxied [--quick] [--rounds N] [--only nginx,HAProxy]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import loads, servers
from bench.lab import LOAD_CORE, SERVER_ADDRESS, BenchError, Lab, lab
from bench.loads import Load
from bench.run import measure_site, print_tables, say
from bench.servers import VENV, Site, configured
from tests.support import sid
from tests.support.certificates import make_certificate

#: HTTP/1.1; HTTP/2 is on the next one. The configurations below have it as a number.
UPSTREAM_PORT = 8081

UPSTREAM = """
daemon off;
worker_processes 1;
user root;
pid {directory}/upstream.pid;
error_log {directory}/upstream-error.log;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    sendfile on;
    open_file_cache max=100;
    keepalive_requests 1000000000;
    keepalive_timeout 300;
    server {{
        listen 127.0.0.1:{port};
        listen unix:{directory}/upstream.sock;
        default_type application/octet-stream;
        root {root};
    }}
    server {{
        listen 127.0.0.1:{h2_port};
        http2 on;
        default_type application/octet-stream;
        root {root};
    }}
}}
"""

NGINX = """
daemon off;
worker_processes 1;
user root;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    ssl_protocols TLSv1.3;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    quic_gso on;
    upstream behind {{
        server 127.0.0.1:8081;
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address}:{port} quic reuseport;
        location / {{
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            add_header x-edge nginx;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend edge
    bind quic4@{address}:{port} ssl crt {directory}/haproxy.pem alpn h3
    http-response set-header x-edge haproxy
    default_backend behind
backend behind
    server behind 127.0.0.1:8081
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
    header x-edge caddy
    reverse_proxy 127.0.0.1:8081 {{
        transport http {{
            keepalive_idle_conns_per_host 256
        }}
    }}
}}
"""

VELOCITY = """
server:
  listen: "{address}:{port}"
  tls:
    certificate: "{certificate}"
    private_key: "{key}"
  workers: 1
  engine: {engine}
dispatch:
  mode: socket
content:
  middlewares:
    - name: edge
      kind: headers
      response:
        set:
          x-edge: velocity
  proxies:
    - hostname: "*"
      upstream: "{upstream}"
      middlewares: [edge]
"""


def _velocity(engine: str, upstream: str) -> servers.Command:
    def command(lab: Lab, site: Site, port: int) -> tuple[list[str], dict[str, str]]:
        directory = site.directory / f"proxy-{port}"
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / "serve.yaml"
        path.write_text(
            VELOCITY.format(
                address=SERVER_ADDRESS,
                port=port,
                certificate=site.certificate.chain,
                key=site.certificate.key,
                engine=engine,
                upstream=upstream.format(directory=site.directory),
            )
        )
        argv = lab.server_command(VENV / "velocity-edge", "serve", "--config", path)
        places = ("RUNTIME", "STATE", "CACHE")
        return argv, {f"VELOCITY_{place}_DIR": str(directory / place.lower()) for place in places}

    return command


def _haproxy(lab: Lab, site: Site, port: int) -> tuple[list[str], dict[str, str]]:
    pem = site.directory / "haproxy.pem"
    pem.write_bytes(Path(site.certificate.chain).read_bytes() + Path(site.certificate.key).read_bytes())
    return configured(HAPROXY, "haproxy.cfg", "haproxy", "-db", "-f")(lab, site, port)


_H1 = f"http://127.0.0.1:{UPSTREAM_PORT}"
PROXIES: servers.Table = {
    "velocity-edge native": (_velocity("native", _H1), True),
    "velocity-edge native, h2 upstream": (_velocity("native", f"h2c://127.0.0.1:{UPSTREAM_PORT + 1}"), True),
    "velocity-edge native, unix": (_velocity("native", "unix:{directory}/upstream.sock"), True),
    "velocity-edge portable": (_velocity("portable", _H1), True),
    "nginx": (configured(NGINX, "proxy-nginx.conf", "nginx", "-c"), True),
    "HAProxy": (_haproxy, True),
    "Caddy": (configured(CADDY, "ProxyCaddyfile", "caddy", "run", "--adapter", "caddyfile", "--config"), True),
}

LOADS = (
    Load("proxied 1 KiB, 10 x 10", "/s", True, loads.get("1k", 10, 10), loads.requests),
    Load("proxied 1 KiB, 10 x 100", "/s", True, loads.get("1k", 10, 100), loads.requests),
    Load("proxied 1 MiB, 10 x 1", "Gbit/s", True, loads.get("1m", 10, 1), loads.gbit),
    Load("p50 of 1,000 proxied requests/s", "ms", False, (*loads.get("1k", 20, 1), "--rate", "1000"), loads.p50),
    Load("p99 of 1,000 proxied requests/s", "ms", False, (*loads.get("1k", 20, 1), "--rate", "1000"), loads.p99),
)


@contextlib.contextmanager
def upstream(lab: Lab, site: Site) -> Iterator[None]:
    """Run the nginx behind all of them, on the load generator's core."""
    path = site.directory / "upstream.conf"
    path.write_text(
        UPSTREAM.format(directory=site.directory, root=site.root, port=UPSTREAM_PORT, h2_port=UPSTREAM_PORT + 1)
    )
    argv = ["ip", "netns", "exec", lab.server_namespace, "taskset", "-c", LOAD_CORE, *sid.command("nginx", "-c", path)]
    process = subprocess.Popen([str(word) for word in argv], start_new_session=True)
    try:
        for _ in range(100):
            if (site.directory / "upstream.sock").exists():
                break
            time.sleep(0.05)
        else:
            raise BenchError("the upstream does not start")
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, short")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of each measurement")
    parser.add_argument("--only", default="", help="proxies, separated by commas: " + ", ".join(PROXIES))
    parser.add_argument("--loads", default="", help="kinds of work whose name contains this")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.duration = 1, 1.2
    names = [name for name in PROXIES if not options.only or name in options.only.split(",")]
    kinds = [load for load in LOADS if options.loads in load.name]
    directory = Path(tempfile.mkdtemp(prefix="ve-bench-", dir="/tmp"))
    try:
        with lab() as made:
            site = servers.make_site(directory, make_certificate(directory, "localhost", SERVER_ADDRESS))
            with upstream(made, site):
                results = measure_site(made, site, names, kinds, options.rounds, options.duration, PROXIES)
    except BenchError as error:
        say(str(error))
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print_tables(results, kinds, options.rounds, options.duration, list(PROXIES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
