"""Spans of a real node reach a collector, with the client's trace; upstreams get it, too."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.node import ENGINES, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def server() -> Iterator[tuple[int, list[tuple[str, dict[str, str], bytes]]]]:
    """A server that records (path, fields, body) of each request."""
    seen: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield listening.server_port, seen
    finally:
        listening.shutdown()
        listening.server_close()


def spans(seen: list[tuple[str, dict[str, str], bytes]]) -> list[dict[str, Any]]:
    documents = [json.loads(body) for path, _, body in seen if path == "/v1/traces"]
    scopes = [scope for d in documents for resource in d["resourceSpans"] for scope in resource["scopeSpans"]]
    return [span for scope in scopes for span in scope["spans"]]


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_become_spans_and_upstreams_join_the_trace(engine: str) -> None:
    with server() as (collector, exported), server() as (upstream, asked):
        config = (
            "server:\n  listen: '127.0.0.1:0'\n  workers: 1\n"
            f"  engine: {engine}\n"
            "  tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}\n"
            f"telemetry: {{otlp: {{endpoint: 'http://127.0.0.1:{collector}', sample: 1}}}}\n"
            f"content:\n  proxies:\n    - {{hostname: '*', upstream: 'http://127.0.0.1:{upstream}'}}\n"
        )
        with running_node(engine=engine, config=config) as node:

            async def get() -> int:
                fields = [("traceparent", f"00-{TRACE}-{PARENT}-00"), ("tracestate", "a=1")]
                async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as connection:
                    return (await connection.request("GET", "/x", headers=fields)).status

            assert asyncio.run(get()) == 200
            poll(lambda: len(spans(exported)) == 2, "both spans")
            ours = {span["kind"]: span for span in spans(exported)}
            assert {span["traceId"] for span in ours.values()} == {TRACE}
            assert ours[2]["parentSpanId"] == PARENT
            assert ours[3]["parentSpanId"] == ours[2]["spanId"]
            [(_, fields, _)] = asked
            assert fields["traceparent"] == f"00-{TRACE}-{ours[3]['spanId']}-01"
            assert fields["tracestate"] == "a=1"
            assert "imported after" not in node.log
