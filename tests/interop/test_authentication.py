"""Behind each kind of authentication, an upstream gets requests of known clients alone, and the truth about them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support import sid
from tests.support.jwts import AUDIENCE, ISSUER, jwk, key_set, token
from tests.support.node import ENGINES, Node, running_node
from tests.support.peers import CurlAnswer, curl
from tests.support.waiting import poll
from velocity_edge.http.passwords import entry

pytestmark = [pytest.mark.interop, pytest.mark.slow]

CONFIG = f"""
server:
   listen: 127.0.0.1:0
   engine: ENGINE
   workers: 1
   tls: {{certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}}
content:
   proxies:
   -  {{hostname: "*", path: /api, upstream: UPSTREAM, middlewares: [api]}}
   -  {{hostname: "*", path: /staff, upstream: UPSTREAM, middlewares: [staff]}}
   -  {{hostname: "*", path: /gate, upstream: UPSTREAM, middlewares: [gate]}}
   -  {{hostname: "*", path: /open, upstream: UPSTREAM, middlewares: []}}
   middlewares:
   -  name: api
      kind: jwt
      issuer: {ISSUER}
      audience: {AUDIENCE}
      jwks: FILES/jwks
      forward: {{sub: X-User}}
   -  {{name: staff, kind: basic, users: FILES/users, user_field: X-User}}
   -  {{name: gate, kind: forward_auth, url: UPSTREAM/verify, copy: X-Groups, timeout: 2s}}
"""


class Echo(BaseHTTPRequestHandler):
    """Answers with what it got. /verify lets `cookie: pass=1` pass."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a GET."""
        passed = self.path != "/verify" or self.headers.get("cookie") == "pass=1"
        body = json.dumps({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200 if passed else 302)
        if self.path == "/verify":
            self.send_header("X-Groups", "staff") if passed else self.send_header("Location", "https://login.test/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(autouse=True)
def _sid() -> None:
    sid.require("test")


@contextmanager
def behind(engine: str, files: Path) -> Iterator[tuple[Node, ThreadingHTTPServer]]:
    files.chmod(0o755)
    (files / "jwks").write_bytes(key_set(jwk("EC", "k1")))
    (files / "users").write_text(entry("alice", b"s3cret", bytes(16)) + "\n")
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = Thread(target=upstream.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    text = CONFIG.replace("FILES", str(files)).replace("ENGINE", engine)
    text = text.replace("UPSTREAM", f"http://127.0.0.1:{upstream.server_port}")
    try:
        with running_node(config=text, engine=engine, workers=1) as node:
            yield node, upstream
    finally:
        upstream.shutdown()
        thread.join(10)
        upstream.server_close()


def get(node: Node, path: str, *fields: str) -> CurlAnswer:
    options = [option for field in fields for option in ("--header", field)]
    return curl(node.url(path), *options, ca=node.ca).answer


def seen(answer: CurlAnswer) -> dict[str, str]:
    assert answer.status == 200, answer
    found: dict[str, str] = json.loads(answer.body)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_upstreams_learn_the_truth_about_clients(engine: str, tmp_path: Path) -> None:
    with behind(engine, tmp_path) as (node, upstream):
        forged = ("X-User: root", "X-Groups: admin")
        now = int(time.time())
        bearer = f"Authorization: Bearer {token(exp=now + 60, iat=now).decode()}"
        got = seen(get(node, "/api/x", bearer, *forged))
        assert (got["path"], got["x-user"], "x-groups" in got) == ("/api/x", "alice", False)
        assert got["authorization"].startswith("Bearer ")
        assert get(node, "/api", bearer[:-6]).status == 401
        assert get(node, "/api", f"Authorization: Bearer {token(exp=now - 60, iat=now - 99).decode()}").status == 401
        got = seen(get(node, "/staff", "Authorization: Basic YWxpY2U6czNjcmV0", *forged))
        assert (got["x-user"], "x-groups" in got, "authorization" in got) == ("alice", False, False)
        assert get(node, "/staff", "Authorization: Basic YWxpY2U6czNjcmUu").status == 401
        got = seen(get(node, "/gate?a=b", "Cookie: pass=1", *forged))
        assert (got["x-groups"], "x-user" in got) == ("staff", False)
        refused = get(node, "/gate", *forged)
        assert (refused.status, refused.headers["location"]) == (302, "https://login.test/")
        assert json.loads(refused.body)["x-forwarded-uri"] == "/gate"
        got = seen(get(node, "/open", *forged))
        assert not {"x-user", "x-groups"} & set(got), "nobody said who this is"
        good = 'velocity_auth_total{middleware="api",result="ok"} 1.0'
        metrics = poll(
            lambda: good in (text := node.admin("GET", "/v1/metrics")[1].decode()) and text,
            "the decisions in /metrics",
        )
        assert 'velocity_auth_total{middleware="api",result="invalid"} 2.0' in metrics
        upstream.shutdown()
        upstream.socket.close()
        down = get(node, "/gate", "Cookie: pass=1")
        assert (down.status, down.headers["retry-after"]) == (503, "5")
