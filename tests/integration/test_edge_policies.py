"""Limits hold for a node, whatever its workers: counted together, kept through restarts and reloads.

Two real workers and real clients on many connections. The other policies are asked for once, through the whole node.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.h3 import H3Client
from tests.support.node import ENGINES, Node, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect

LIMIT = 40
CONNECTIONS = 16
CONFIG = """\
server:
  listen: 127.0.0.1:0
  workers: 2
  engine: ENGINE
  tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}
content:
  rate_limit: {limit: 40, window: 1h}
  waf: {rules: [{id: probe, match: {field: query, pattern: evil}}]}
  middlewares:
    - {name: small, kind: compress, everywhere: true}
    - {name: others, kind: ip, deny: [127.0.0.0/8, "::1/128"]}
    - {name: app, kind: cors, origins: "https://app.example.com"}
    - {name: tiny, kind: body_limit, max_body: 10}
    - {name: careful, kind: security_headers, strict_transport_security: max-age=60}
  sites:
    - hostname: "*"
      root: ROOT
      listings: true
      error_pages: {429: wait.html}
      cache_rules: [{path: "*.html", cache_control: no-cache}]
  routes:
    - match: {path: /denied}
      action: {type: static}
      middlewares: [others]
      rate_limit: {limit: 1000, window: 1m}
    - match: {path: /api}
      action: {type: static, body: api}
      middlewares: [careful, app, tiny]
      rate_limit: {limit: 1000, window: 1m}
"""


Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(params=ENGINES)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    root = Path(tempfile.mkdtemp(prefix="ve-root-", dir="/tmp"))
    root.chmod(0o755)
    (root / "index.html").write_text("<p>again\n" * 1000)
    (root / "wait.html").write_text("<p>wait a moment")
    (root / "files").mkdir()
    (root / "files" / "a.txt").write_text("a")
    config = CONFIG.replace("ENGINE", request.param).replace("ROOT", str(root))
    try:
        with running_node(config=config, engine=request.param, workers=2) as running:
            yield running
    finally:
        shutil.rmtree(root)


async def ask(node: Node, *requests: tuple[str, str, dict[str, str], bytes]) -> list[Answer]:
    """Send the requests one after the other on one connection."""
    found: list[Answer] = []
    async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as connection:
        for method, path, headers, body in requests:
            response = await connection.request(method, path, list(headers.items()), body or None)
            content = b"".join([chunk async for chunk in response])
            found.append((response.status, dict(response.headers), content))
    return found


async def flood(node: Node, each: int) -> list[Answer]:
    """Ask on many connections at the same time."""
    many = await asyncio.gather(*(ask(node, *[("GET", "/", {}, b"")] * each) for _ in range(CONNECTIONS)))
    return [answer for found in many for answer in found]


def one(node: Node, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
    return asyncio.run(ask(node, (method, path, headers or {}, body)))[0]


@pytest.mark.slow
def test_two_workers_admit_what_one_limit_says_through_restarts_and_reloads(node: Node) -> None:
    answers = asyncio.run(flood(node, 10))
    assert Counter(status for status, _, _ in answers) == {200: LIMIT, 429: 10 * CONNECTIONS - LIMIT}
    remaining = sorted(
        int(fields["ratelimit"].split(";")[1].removeprefix("r=")) for s, fields, _ in answers if s == 200
    )
    assert remaining == list(range(LIMIT)), "each was told another number: no count was lost"
    refused = next(answer for answer in answers if answer[0] == 429)
    assert refused[1]["ratelimit-policy"] == '"default";q=40;w=3600'
    assert 3000 < int(refused[1]["retry-after"]) <= 3600
    assert refused[2] == b"<p>wait a moment", "the site's page"
    name = 'velocity_rate_limited_total{rule="default"}'
    limited = 10 * CONNECTIONS - LIMIT
    poll(lambda: f"{name} {limited}" in node.admin("GET", "/v1/metrics")[1].decode(), "the refusals in the metrics")
    served = [worker["requests"] for worker in node.status()["workers"] if "requests" in worker]
    assert all(served), "both workers took part"

    assert node.command("admin", "restart", timeout_s=60).returncode == 0
    assert one(node, "GET", "/")[0] == 429, "new workers know the counts"
    file = node.directory / "serve.yaml"
    file.write_text(file.read_text().replace("max-age=60", "max-age=61"))
    assert node.command("admin", "reload").returncode == 0
    assert one(node, "GET", "/api")[1]["strict-transport-security"] == "max-age=61"
    assert one(node, "GET", "/")[0] == 429, "the rule is unchanged"
    file.write_text(file.read_text().replace("limit: 40", "limit: 41"))
    assert node.command("admin", "reload").returncode == 0
    assert one(node, "GET", "/")[0] == 200, "another rule counts anew"


def test_each_policy_through_the_whole_node(node: Node) -> None:
    page = one(node, "GET", "/", {"accept-encoding": "gzip"})
    assert (page[1]["content-encoding"], page[1]["cache-control"]) == ("gzip", "no-cache")
    assert zlib.decompress(page[2], zlib.MAX_WBITS | 16) == b"<p>again\n" * 1000
    assert page[1]["etag"].startswith('W/"')
    again = one(node, "GET", "/", {"accept-encoding": "gzip", "if-none-match": page[1]["etag"]})
    assert (again[0], again[1]["etag"]) == (304, page[1]["etag"])
    part = one(node, "GET", "/", {"accept-encoding": "gzip", "range": "bytes=0-3"})
    assert (part[0], part[2], "content-encoding" in part[1]) == (206, b"<p>a", False)

    assert one(node, "GET", "/denied")[0] == 403
    assert one(node, "GET", "/api?evil")[0] == 403
    assert one(node, "GET", "/files/?x=1+union+select+1")[0] == 403
    listing = one(node, "GET", "/files/?sort=size", {"accept": "text/plain"})
    assert listing[2].split()[1:] == [b"1", b"a.txt"]

    assert [one(node, "POST", "/api", body=b"x" * n)[0] for n in (10, 11)] == [200, 413]
    origin = {"origin": "https://app.example.com"}
    answer = one(node, "GET", "/api", origin)
    assert answer[1]["access-control-allow-origin"] == origin["origin"]
    assert (answer[1]["strict-transport-security"], answer[1]["x-content-type-options"]) == ("max-age=60", "nosniff")
    preflight = one(node, "OPTIONS", "/api", {**origin, "access-control-request-method": "GET"})
    assert (preflight[0], preflight[1]["access-control-allow-methods"]) == (204, "GET, HEAD, POST")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_address_cannot_take_all_connections(engine: str) -> None:
    config = f"""\
server:
  listen: 127.0.0.1:0
  workers: 1
  engine: {engine}
  tls: {{certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}}
  limits: {{max_connections_per_address: 1}}
content: {{sites: [{{hostname: "*", root: DIRECTORY/root}}]}}
"""
    with running_node(config=config, engine=engine) as node, H3Client(node.port, node.ca) as first:
        assert first.get("/").status == 200
        with H3Client(node.port, node.ca) as second:
            assert second.wait_closed() == 0x107
        assert first.get("/").status == 200
