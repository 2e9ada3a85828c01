"""A request that no site answers goes to an upstream, and what comes back reaches the client; by both engines.

One node per engine serves all routes that nothing changes; what reloads, stops or restarts has a node of its own.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import make_certificate
from tests.support.node import ENGINES, Node, running_node
from tests.support.upstream import Upstream
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Connection, Options, connect

#: The example of the deployment guide, with paths and addresses of this machine.
GUIDE = """\
server:
   listen: "127.0.0.1:0"
   workers: 1
   engine: ENGINE
   tls:
      certificate: "DIRECTORY/certificate.pem"
      private_key: "DIRECTORY/key.pem"
      require_ech: false
   profiles:
      default: balanced
      permit: [light, balanced, secure]
   telemetry:
      metrics_listen: "127.0.0.1:0"
      structured_logs: true
      access_log: json
content:
   sites:
      - hostname: velocity.test
         root: "DIRECTORY/root"
         index: index.html
         cache_control: public, max-age=60
   proxies:
      - hostname: localhost
         upstream: "UPSTREAM"
         preserve_host: true
         timeouts:
            connect: 5s
            response: 45s
            idle: 2m
EXTRA
tickets:
   max_age: 24h
   rotate_after: 12h
   storage: "DIRECTORY/tickets.json"
"""

ROUTES = """\
   routes:
   - {match: {path: /pair}, action: {type: proxy, strip_prefix: /pair, upstreams: [DEAD, SECOND]}}
   - {match: {path: /dead}, action: {type: proxy, upstream: DEAD}}
   - {match: {path: /unix}, action: {type: proxy, strip_prefix: /unix, upstream: UNIX}}
   - {match: {path: /small}, action: {type: proxy, strip_prefix: /small, upstream: FIRST, max_request_body: 1000}}
   - match: {path: /impatient}
     action: {type: proxy, strip_prefix: /impatient, upstream: FIRST, timeouts: {response: 300ms}}
   - match: {path: /stalled}
     action: {type: proxy, strip_prefix: /stalled, upstream: FIRST, timeouts: {idle: 300ms}}
   - match: {path: /narrow}
     action:
       type: proxy
       strip_prefix: /narrow
       upstream: FIRST
       max_connections: 1
       queue: {max: 1, timeout: 300ms}
   - match: {path: /sticky}
     action: {type: proxy, strip_prefix: /sticky, upstreams: [FIRST, SECOND], lb: {sticky: seat}}
   - match: {path: /checked}
     action:
       type: proxy
       strip_prefix: /checked
       upstreams: [FIRST, SECOND]
       health: {active: {path: /health, interval: 200ms, passes: 1, fails: 1}}
   - match: {path: /tls}
     action:
       type: proxy
       strip_prefix: /tls
       upstream: TLS
       tls: {ca: KEYS/certificate.pem, certificate: KEYS/certificate.pem, private_key: KEYS/key.pem}
   - {match: {path: /anonymous}, action: {type: proxy, upstream: TLS, tls: {ca: KEYS/certificate.pem}}}
   - {match: {path: /untrusted}, action: {type: proxy, upstream: TLS}}
   - match: {path: /other-name}
     action: {type: proxy, upstream: TLS, tls: {ca: KEYS/certificate.pem, server_name: other.test}}
   - match: {path: /changed}
     action:
       type: proxy
       rewrite: /other{path}
       upstream: FIRST/base
       forwarded: true
       headers:
         request: {set: {x-a: "1", host: inner.test}, remove: user-agent}
         response: {set: {x-b: "2"}, remove: x-upstream}
"""


@dataclass
class Stage:
    """A node and the servers behind it."""

    node: Node
    first: Upstream
    second: Upstream


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def proxying(engine: str, upstream: str, extra: str = "") -> Iterator[Node]:
    """Run a node of the guide's file; *extra* are more lines of `content`."""
    filled = GUIDE.replace("ENGINE", engine).replace("UPSTREAM", upstream).replace("EXTRA\n", extra)
    with running_node(engine=engine, config=filled) as node:
        yield node


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ve-up-", dir="/tmp")))
        directory.chmod(0o755)  # workers without rights must reach it
        path = str(directory / "sock")
        first, second = stack.enter_context(Upstream()), stack.enter_context(Upstream(name="two"))
        keys = make_certificate(directory, "localhost")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(keys.chain))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(keys.chain, keys.key)
        secure = stack.enter_context(Upstream(name="secure", tls=context))
        behind = stack.enter_context(Upstream(path=path))
        (directory / "sock").chmod(0o777)
        places = {"DEAD": f"http://127.0.0.1:{closed_port()}", "UNIX": behind.url}
        places |= {"TLS": secure.url, "KEYS": str(directory)}
        places |= {"FIRST": first.url, "SECOND": second.url}
        routes = ROUTES
        for word, url in places.items():
            routes = routes.replace(word, url)
        node = stack.enter_context(proxying(request.param, first.url, routes))
        yield Stage(node, first, second)


def options(node: Node) -> Options:
    return Options(cafile=node.ca, timeout_s=10.0)


async def ask(
    connection: Connection,
    path: str,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes | None = None,
) -> tuple[int, dict[str, str], bytes]:
    response = await connection.request(method, path, headers=headers, body=body)
    content = b"".join([chunk async for chunk in response])
    return response.status, dict(response.headers), content


def asked(
    node: Node, path: str, method: str = "GET", headers: tuple[tuple[str, str], ...] = (), body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""

    async def run() -> tuple[int, dict[str, str], bytes]:
        async with connect(node.url(), options(node)) as connection:
            return await ask(connection, path, method, headers, body)

    return asyncio.run(run())


# --- what is forwarded


def test_a_request_and_its_answer_pass_through_one_kept_connection(stage: Stage) -> None:
    async def run() -> None:
        async with connect(stage.node.url(), options(stage.node)) as connection:
            status, headers, body = await ask(connection, "/v1/things?x=1", headers=(("accept", "text/x"),))
            assert (status, headers["x-upstream"], headers["server"]) == (200, "one", "upstream")
            seen = json.loads(body)
            assert (seen["method"], seen["target"]) == ("GET", "/v1/things?x=1")
            fields = seen["fields"]
            authority = f"localhost:{stage.node.port}"
            assert fields["host"] == authority
            assert fields["accept"] == "text/x"
            assert fields["x-forwarded-for"] == fields["x-real-ip"] == "127.0.0.1"
            assert fields["x-forwarded-proto"] == "https"
            assert fields["x-forwarded-host"] == authority
            assert fields["x-forwarded-port"] == str(stage.node.port)
            assert fields["via"] == "3 velocity-edge"
            assert fields["x-request-id"]
            before = stage.first.connections
            for path in ("/bytes/0", "/bytes/1000000"):
                status, _, body = await ask(connection, path)
                assert (status, len(body)) == (200, int(path.rpartition("/")[2]))
            assert (await ask(connection, "/status/404"))[0] == 404
            assert (await ask(connection, "/status/204"))[0] == 204
            status, headers, body = await ask(connection, "/bytes/5", "HEAD")
            assert (status, headers["content-length"], body) == (200, "5", b"")
            assert stage.first.connections == before

    asyncio.run(run())


def test_fields_that_a_client_forges_do_not_arrive(stage: Stage) -> None:
    forged = ("x-forwarded-for", "x-forwarded-proto", "x-real-ip", "x_real_ip", "x_forwarded_for", "forwarded", "proxy")
    _, _, body = asked(stage.node, "/", headers=tuple((name, "forged") for name in forged))
    assert b"forged" not in body


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_a_body_arrives_whole(stage: Stage, size: int) -> None:
    status, _, body = asked(stage.node, "/up", "POST", body=bytes(size))
    assert (status, json.loads(body)["body"]) == (200, size)


def test_the_path_and_the_fields_are_changed_as_the_route_says(stage: Stage) -> None:
    _, headers, body = asked(stage.node, "/changed/x?q", headers=(("user-agent", "a"), ("x-a", "0")))
    seen = json.loads(body)
    assert seen["target"] == "/base/other/changed/x?q"
    assert seen["fields"]["x-a"] == "1"
    assert seen["fields"]["host"] == "inner.test"
    assert seen["fields"]["forwarded"] == f'for=127.0.0.1;host="localhost:{stage.node.port}";proto=https'
    assert "user-agent" not in seen["fields"]
    assert headers["x-b"] == "2"
    assert "x-upstream" not in headers


def test_a_unix_socket_is_an_upstream(stage: Stage) -> None:
    status, _, body = asked(stage.node, "/unix/x")
    assert (status, json.loads(body)["target"]) == (200, "/x")
    assert json.loads(body)["fields"]["host"] == "localhost"


def test_a_server_is_reached_by_tls_with_a_certificate_of_the_node(stage: Stage) -> None:
    """By a name, whose first address (::1) nobody listens at."""
    status, headers, body = asked(stage.node, "/tls/bytes/100000")
    assert (status, headers["x-upstream"], len(body)) == (200, "secure", 100_000)


@pytest.mark.parametrize("path", ["/anonymous", "/untrusted", "/other-name"])
def test_a_server_that_cannot_be_trusted_or_does_not_trust_us_is_a_502(stage: Stage, path: str) -> None:
    assert asked(stage.node, path)[0] == 502


def test_a_path_that_climbs_reaches_no_upstream(stage: Stage) -> None:
    before = len(stage.first.requests)
    assert asked(stage.node, "/changed/..%2fadmin")[0] == 400
    assert len(stage.first.requests) == before


def test_hints_arrive_before_the_answer(stage: Stage) -> None:
    async def run() -> None:
        hints: list[tuple[int, list[tuple[str, str]]]] = []
        async with connect(stage.node.url(), options(stage.node)) as connection:
            response = await connection.request(
                "GET", "/hints", on_informational=lambda status, fields: hints.append((status, fields))
            )
            assert (response.status, b"".join([chunk async for chunk in response])) == (200, b"hinted\n")
        assert hints == [(103, [("link", "</a.css>; rel=preload")])]

    asyncio.run(run())


def test_a_client_that_waits_for_100_gets_it(stage: Stage) -> None:
    async def run() -> None:
        invited = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            await invited.wait()
            yield b"body"

        async with connect(stage.node.url(), options(stage.node)) as connection:
            response = await connection.request(
                "POST",
                "/x",
                headers=(("expect", "100-continue"),),
                body=body(),
                on_informational=lambda status, _: invited.set() if status == 100 else None,
            )
            assert json.loads(b"".join([chunk async for chunk in response]))["body"] == 4

    asyncio.run(run())


# --- several servers


def test_a_server_that_refuses_costs_a_retry_and_not_an_answer(stage: Stage) -> None:
    async def run() -> None:
        async with connect(stage.node.url(), options(stage.node)) as connection:
            for method in ("GET", "POST", "GET"):
                status, headers, _ = await ask(connection, "/pair/x", method)
                assert (status, headers["x-upstream"]) == (200, "two")

    asyncio.run(run())


def test_a_client_stays_with_its_server_by_the_cookie(stage: Stage) -> None:
    async def run() -> None:
        async with connect(stage.node.url(), options(stage.node)) as connection:
            _, headers, _ = await ask(connection, "/sticky/x")
            name, cookie = headers["x-upstream"], headers["set-cookie"].partition(";")[0]
            assert cookie.startswith("seat=")
            for _ in range(4):
                _, headers, _ = await ask(connection, "/sticky/x", headers=(("cookie", f"a=1; {cookie}"),))
                assert headers["x-upstream"] == name
                assert "set-cookie" not in headers

    asyncio.run(run())


def test_a_server_that_fails_its_check_gets_no_requests_until_it_passes(stage: Stage) -> None:
    async def names(connection: Connection) -> set[str]:
        return {(await ask(connection, "/checked/x"))[1]["x-upstream"] for _ in range(4)}

    async def wait_for(connection: Connection, expected: set[str]) -> None:
        async with asyncio.timeout(10):
            while await names(connection) != expected:
                pass

    async def run() -> None:
        async with connect(stage.node.url(), options(stage.node)) as connection:
            await wait_for(connection, {"one", "two"})
            stage.second.healthy = False
            await wait_for(connection, {"one"})
            stage.second.healthy = True
            await wait_for(connection, {"one", "two"})

    asyncio.run(run())


# --- what goes wrong


def test_a_server_that_is_not_there_is_a_502(stage: Stage) -> None:
    status, headers, body = asked(stage.node, "/dead")
    assert (status, headers["content-type"]) == (502, "text/plain; charset=utf-8")
    assert body == b"The server behind this site cannot be reached.\n"


def test_a_server_that_closes_without_an_answer_is_a_502(stage: Stage) -> None:
    assert asked(stage.node, "/close", "POST")[0] == 502


def test_a_server_that_does_not_answer_in_time_is_a_504(stage: Stage) -> None:
    stage.first.release.clear()
    assert asked(stage.node, "/impatient/slow")[0] == 504


def test_a_body_above_the_limit_is_a_413(stage: Stage) -> None:
    assert asked(stage.node, "/small/x", "POST", body=bytes(1000))[0] == 200
    assert asked(stage.node, "/small/x", "POST", body=bytes(1001))[0] == 413


def test_a_body_that_stops_coming_is_a_408(stage: Stage) -> None:
    async def run() -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            await asyncio.Event().wait()

        async with connect(stage.node.url(), options(stage.node)) as connection:
            response = await connection.request("POST", "/stalled/x", body=body())
            assert response.status == 408

    asyncio.run(run())


def test_requests_above_the_limit_wait_and_then_get_a_503(stage: Stage) -> None:
    async def run() -> None:
        stage.first.release.clear()
        async with connect(stage.node.url(), options(stage.node)) as connection:
            running = asyncio.create_task(ask(connection, "/narrow/slow"))
            await asyncio.to_thread(poll, lambda: stage.first.requests[-1][1] == "/slow", "the first request")
            others = [asyncio.create_task(ask(connection, "/narrow/x")) for _ in range(2)]
            answers = await asyncio.gather(*others)
            assert [status for status, _, _ in answers] == [503, 503]
            assert answers[0][1]["retry-after"] == "1"
            last = asyncio.create_task(ask(connection, "/narrow/x"))
            await asyncio.sleep(0)
            stage.first.release.set()
            assert (await running)[0] == 200
            assert (await last)[0] == 200

    asyncio.run(run())


# --- streams


def test_events_arrive_one_by_one(stage: Stage) -> None:
    async def run() -> None:
        stage.first.release.clear()
        async with connect(stage.node.url(), options(stage.node)) as connection:
            response = await connection.request("GET", "/sse")
            chunks = aiter(response)
            assert await anext(chunks) == b"data: first\n\n"
            stage.first.release.set()
            assert await anext(chunks) == b"data: second\n\n"
            assert [chunk async for chunk in chunks] == []

    asyncio.run(run())


def test_a_client_that_goes_away_ends_the_request_of_the_upstream(stage: Stage) -> None:
    async def run() -> None:
        stage.first.release.clear()
        stage.first.abandoned.clear()
        async with connect(stage.node.url(), options(stage.node)) as connection:
            response = await connection.request("GET", "/sse")
            await anext(aiter(response))
        await asyncio.to_thread(poll, stage.first.abandoned.is_set, "the upstream's connection to end")

    asyncio.run(run())
