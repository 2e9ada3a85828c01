"""Whatever an HTTP/2 upstream sends, each request has one answer, and others on its connection go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame

from tests.support.h2_upstream import Fields, H2Upstream, h2_upstream
from tests.support.misbehaving_upstream import COMPLETE, CUT, REFUSED
from tests.support.node import ENGINES, Node, running_node
from velocity_edge.client.h3_client import Connection, Options, connect
from velocity_edge.errors import VelocityError

CONFIG = """\
server:
  listen: "127.0.0.1:0"
  workers: 1
  engine: ENGINE
  tls: {certificate: "DIRECTORY/certificate.pem", private_key: "DIRECTORY/key.pem"}
content:
  proxies:
  - hostname: localhost
    upstream: "h2c://127.0.0.1:PORT"
    timeouts: {connect: 3s, response: 1s, idle: 700ms}
    retries: {attempts: 1}
    health: {passive: {fails: 0}}
"""
Script = Callable[[H2Upstream, H2Connection, int], None]


def head(status: bytes, *fields: tuple[bytes, bytes], body: bytes = b"hello", end: bool = True) -> Script:
    def script(_: H2Upstream, parser: H2Connection, stream: int) -> None:
        parser.send_headers(stream, [(b":status", status), *fields], end_stream=end and not body)
        if body:
            parser.send_data(stream, body, end_stream=end)

    return script


def raw(data: Callable[[int], bytes], *, after_head: bool = False) -> Script:
    """Frames that h2 would not make."""

    def script(upstream: H2Upstream, parser: H2Connection, stream: int) -> None:
        if after_head:
            parser.send_headers(stream, [(b":status", b"200")])
        writer = upstream.writers[upstream.parsers.index(parser)]
        writer.write(parser.data_to_send() + data(stream))

    return script


def hints(n: int) -> Script:
    def script(_: H2Upstream, parser: H2Connection, stream: int) -> None:
        for _ in range(n):
            parser.send_headers(stream, [(b":status", b"103"), (b"link", b"</a>")])
        head(b"200")(_, parser, stream)

    return script


def reset(code: ErrorCodes, *, after_head: bool) -> Script:
    def script(_: H2Upstream, parser: H2Connection, stream: int) -> None:
        if after_head:
            parser.send_headers(stream, [(b":status", b"200")])
            parser.send_data(stream, b"hel")
        parser.reset_stream(stream, code)

    return script


def goaway(last_stream: int) -> Script:
    def script(upstream: H2Upstream, parser: H2Connection, stream: int) -> None:
        frame = GoAwayFrame(0)
        frame.last_stream_id = last_stream
        upstream.writers[upstream.parsers.index(parser)].write(parser.data_to_send() + frame.serialize())
        if stream <= last_stream:
            head(b"200")(upstream, parser, stream)

    return script


def silent(*_: Any) -> None:
    pass


#: Name -> what the server does, and how the request may end.
CASES: dict[str, tuple[Script, set[str]]] = {
    "good": (head(b"200"), {COMPLETE}),
    "hint": (hints(1), {COMPLETE}),
    "many-hints": (hints(200), {REFUSED}),
    "status-101": (head(b"101"), {REFUSED}),
    "status-700": (head(b"700"), {REFUSED}),
    "status-letters": (head(b"abc"), {REFUSED}),
    "no-status": (raw(lambda s: HeadersFrame(s, b"\x00\x01x\x01y", flags=["END_HEADERS"]).serialize()), {REFUSED}),
    "large-head": (head(b"200", (b"x", b"y" * 80_000)), {REFUSED}),
    "many-fields": (head(b"200", *[(b"x", b"y")] * 1000), {REFUSED}),
    "longer": (head(b"200", (b"content-length", b"3")), {CUT, REFUSED}),
    "shorter": (head(b"200", (b"content-length", b"9")), {CUT, REFUSED}),
    "nothing": (head(b"200", (b"content-length", b"9"), body=b""), {CUT, REFUSED}),
    "two-lengths": (head(b"200", (b"content-length", b"5"), (b"content-length", b"6")), {REFUSED, CUT}),
    "204-with-content": (head(b"204"), {COMPLETE, REFUSED, CUT}),
    "refused": (reset(ErrorCodes.REFUSED_STREAM, after_head=False), {REFUSED}),
    "reset": (reset(ErrorCodes.INTERNAL_ERROR, after_head=False), {REFUSED}),
    "cut": (reset(ErrorCodes.INTERNAL_ERROR, after_head=True), {CUT}),
    "no-end": (head(b"200", end=False), {CUT}),
    "silent": (silent, {REFUSED}),
    "goaway-after": (goaway(2**31 - 1), {COMPLETE}),
    "goaway-before": (goaway(0), {REFUSED}),
    "wrong-frame": (raw(lambda s: b"\xff\xff\xff\x00\x00" + s.to_bytes(4, "big")), {REFUSED}),
    "bad-hpack": (raw(lambda s: HeadersFrame(s, b"\xff" * 50, flags=["END_HEADERS"]).serialize()), {REFUSED}),
    "data-first": (raw(lambda s: DataFrame(s, b"x").serialize()), {REFUSED}),
    "data-on-0": (raw(lambda _: b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x"), {REFUSED}),
    "pings": (raw(lambda _: PingFrame(0, b"12345678").serialize() * 20_000, after_head=True), {CUT}),
    "settings": (raw(lambda _: SettingsFrame(0, {4: 65535}).serialize() * 20_000, after_head=True), {CUT}),
    "empty-data": (raw(lambda s: DataFrame(s, b"").serialize() * 20_000, after_head=True), {CUT}),
    "window-overflow": (raw(lambda s: DataFrame(s, b"x" * 16_000).serialize() * 2_000, after_head=True), {CUT}),
}


@dataclass
class Stage:
    node: Node
    port: int


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    port = free_port()
    config = CONFIG.replace("ENGINE", request.param).replace("PORT", str(port))
    with running_node(engine=request.param, config=config) as node:
        yield Stage(node, port)


async def end_of(connection: Connection, name: str) -> str:
    passed = b""
    try:
        response = await connection.request("GET", f"/{name}")
        async for chunk in response:
            passed += chunk
    except VelocityError:
        return CUT
    if response.status in (502, 504):
        return REFUSED
    return COMPLETE if passed in (b"hello", b"") else f"{response.status} {passed[:40]!r}"


def test_each_request_has_one_answer_and_the_next_one_is_served(stage: Stage) -> None:
    async def run() -> None:
        def script(parser: H2Connection, stream: int, fields: Fields) -> None:
            CASES[fields[b":path"].decode().lstrip("/")][0](upstream, parser, stream)

        upstream, wrong = H2Upstream(script), []
        async with (
            h2_upstream(upstream, port=stage.port),
            connect(stage.node.url(), Options(cafile=stage.node.ca, timeout_s=10.0)) as connection,
        ):
            for name, (_, ends) in CASES.items():
                end = await end_of(connection, name)
                if end not in ends:
                    wrong.append(f"{name}: {end}")
                again = await end_of(connection, "good")
                if again != COMPLETE:
                    wrong.append(f"after {name}: {again}")
        assert not wrong, "\n".join(wrong)

    asyncio.run(run())


def test_a_stream_that_is_wrong_ends_alone(stage: Stage) -> None:
    """Twenty requests wait on one connection while others on it fail; then each gets its answer."""

    async def run() -> None:
        held: list[tuple[H2Connection, int]] = []

        def script(parser: H2Connection, stream: int, fields: Fields) -> None:
            name = fields[b":path"].decode().lstrip("/")
            if name == "held":
                held.append((parser, stream))
            else:
                CASES[name][0](upstream, parser, stream)

        upstream = H2Upstream(script)
        async with (
            h2_upstream(upstream, port=stage.port),
            connect(stage.node.url(), Options(cafile=stage.node.ca, timeout_s=10.0)) as connection,
        ):
            tasks = [asyncio.ensure_future(end_of(connection, "held")) for _ in range(20)]
            async with asyncio.timeout(5):
                while len(held) < 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            for name in ("hint", "status-700", "refused", "cut", "many-fields", "goaway-after"):
                assert await end_of(connection, name) in CASES[name][1], name
            for parser, stream in held:
                head(b"200")(upstream, parser, stream)
            upstream.flush()
            assert await asyncio.gather(*tasks) == [COMPLETE] * 20

    asyncio.run(run())
