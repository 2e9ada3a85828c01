"""curl understands what the policies of a node answer: compressed bodies, refusals of a rate limit, permissions.

The limit is that of a proxy, too: requests over it never reach the upstream.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.support import sid
from tests.support.node import running_node
from tests.support.peers import curl

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PAGE = b"<p>the same line again and again\n" * 3000
CONFIG = """\
server:
  listen: 127.0.0.1:0
  workers: 2
  tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}
content:
  middlewares:
    - {name: small, kind: compress}
    - {name: few, kind: rate_limit, limit: 3, window: 1h}
    - {name: app, kind: cors, origins: "https://*.example.com"}
  proxies:
    - {hostname: "*", upstream: "http://127.0.0.1:PORT", middlewares: [app, few, small]}
"""


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        Upstream.asked += 1
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("etag", '"1"')
        self.send_header("content-length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


def test_curl_decodes_what_is_compressed_and_sees_the_limit() -> None:
    sid.require("test")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with running_node(config=CONFIG.replace("PORT", str(server.server_port)), workers=2) as node:
            for coding in ("gzip", "zstd", "identity"):
                run = curl(
                    node.url("/"),
                    "--compressed",
                    "-H",
                    f"accept-encoding: {coding}",
                    "-H",
                    "origin: https://a.example.com",
                    ca=node.ca,
                )
                answer = run.answer
                assert (answer.status, answer.body == PAGE) == (200, True), coding
                assert answer.headers.get("content-encoding") == (None if coding == "identity" else coding)
                assert answer.headers["access-control-allow-origin"] == "https://a.example.com"
                assert answer.headers["ratelimit-policy"] == '"few";q=3;w=3600'
            refused = curl(node.url("/"), ca=node.ca).answer
            assert (refused.status, refused.headers["retry-after"].isdigit()) == (429, True)
            assert Upstream.asked == 3
    finally:
        server.shutdown()
