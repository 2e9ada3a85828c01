"""Nothing malformed reaches an upstream, and no byte of a body is ever read as a request there; by both engines.

The upstream keeps every byte that it got. Each request carries the word `smuggled`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived, StreamReset

from tests.support.h3_bytes import Field, frame, headers, request, varint
from tests.support.node import ENGINES, Node, running_node
from tests.support.upstream import Upstream

CONFIG = """\
server:
  listen: 127.0.0.1:0
  workers: 1
  engine: ENGINE
  tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}
content:
  proxies:
    - {hostname: "*", upstream: "UPSTREAM", preserve_host: true}
"""


def asked(*extra: Field, **more: Any) -> list[Field]:
    return request(b"/smuggled", extra=[(b"x-mark", b"smuggled"), *extra], **more)


BAD_NAMES = [b"", b" ", b"a b", b"a:b", b"a\0", b"a\r\nx", b"a\n", b"\x80", b"A", b"Transfer-Encoding", b":new", b"a\t"]
BAD_VALUES = [b"a\0b", b"a\rb", b"a\nb", b"a\r\nx-y: 1", b"a\r\n\r\nGET /smuggled HTTP/1.1", b" a", b"a ", b"\ta"]
CONNECTION_FIELDS = [
    (b"connection", b"close"),
    (b"connection", b"x-mark"),
    (b"keep-alive", b"1"),
    (b"proxy-connection", b"close"),
    (b"transfer-encoding", b"chunked"),
    (b"transfer-encoding", b"identity"),
    (b"upgrade", b"h2c"),
    (b"te", b"gzip"),
]
BAD_LENGTHS = [b"-1", b"+1", b"1,2", b"0x10", b"1e3", b"", b" 1", b"\xd9\xa1", b"1" * 40]
BAD_PATHS = [b"", b"/a b", b"/a\r\nx: y", b"/a\0", b"smuggled", b"//[::1", b"/a\x7f", b"/\xff"]
BAD_AUTHORITIES = [b"", b"a b", b"user@host", b"a/b", b"a\r\nhost: b", b"a?b", b"a#b", b"a,b"]
BAD_METHODS = [b"", b"G T", b"GET\r\n", b"GET /smuggled HTTP/1.1\r\nx:", b"G\0T", b"(GET)"]

MALFORMED: dict[str, list[Field]] = {}
MALFORMED |= {f"name {name!r}": asked((name, b"v")) for name in BAD_NAMES}
MALFORMED |= {f"value {value!r}": asked((b"x", value)) for value in BAD_VALUES[:5]}
MALFORMED |= {f"field {name!r} {value!r}": asked((name, value)) for name, value in CONNECTION_FIELDS}
MALFORMED |= {f"length {value!r}": asked((b"content-length", value), method=b"POST") for value in BAD_LENGTHS}
MALFORMED |= {f"path {path!r}": [*request(path), (b"x-mark", b"smuggled")] for path in BAD_PATHS if path != b"//[::1"}
MALFORMED |= {f"authority {value!r}": asked(authority=value) for value in BAD_AUTHORITIES}
MALFORMED |= {f"method {value!r}": asked(method=value) for value in BAD_METHODS}
MALFORMED |= {
    "two lengths": asked((b"content-length", b"1"), (b"content-length", b"2"), method=b"POST"),
    "host differs": asked((b"host", b"other")),
    "two hosts": asked((b"host", b"localhost"), (b"host", b"other")),
    "two paths": [*asked(), (b":path", b"/smuggled")],
    "pseudo field late": [(b"x-mark", b"smuggled"), *asked()],
    "no path": [field for field in asked() if field[0] != b":path"],
    "no method": [field for field in asked() if field[0] != b":method"],
    "no scheme": [field for field in asked() if field[0] != b":scheme"],
    "status in a request": [(b":status", b"200"), *asked()],
    "unknown pseudo field": [(b":smuggled", b"1"), *asked()],
}


class Raw(QuicConnectionProtocol):
    """A connection on which a test writes streams itself."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.over = asyncio.Event()
        self.received = b""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.stream_id == 0:
            self.received += event.data
            if event.end_stream:
                self.over.set()
        elif isinstance(event, ConnectionTerminated) or (isinstance(event, StreamReset) and event.stream_id == 0):
            self.over.set()


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Upstream]]:
    with Upstream() as upstream:
        text = CONFIG.replace("ENGINE", request.param).replace("UPSTREAM", upstream.url)
        with running_node(engine=request.param, config=text) as node:
            yield node, upstream


async def send(node: Node, data: bytes) -> bytes:
    """Send this as a request stream; return what came back, when the stream or the connection has ended."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    configuration.server_name = "localhost"
    async with connect("127.0.0.1", node.port, configuration=configuration, create_protocol=Raw) as raw:
        assert isinstance(raw, Raw)
        raw._quic.send_stream_data(2, varint(0) + frame(4, b""))  # control stream: SETTINGS
        raw._quic.send_stream_data(0, data, end_stream=True)
        raw.transmit()
        async with asyncio.timeout(10):
            await raw.over.wait()
        return raw.received


def test_no_malformed_request_reaches_the_upstream(stage: tuple[Node, Upstream]) -> None:
    node, upstream = stage

    async def run() -> None:
        for name, fields in MALFORMED.items():
            await send(node, headers(fields))
            assert b"smuggled" not in upstream.raw, name
        assert b"sound" in await send(node, headers(request(b"/sound")))

    asyncio.run(run())
    assert [each[1] for each in upstream.requests] == ["/sound"]


@pytest.mark.parametrize("length", [b"5", b"50000"])
def test_no_byte_of_a_body_is_read_as_a_request(stage: tuple[Node, Upstream], length: bytes) -> None:
    """A body that is longer or shorter than it says is cut, and so is the connection to the upstream."""
    node, upstream = stage
    body = b"12345GET /second HTTP/1.1\r\nhost: a\r\n\r\n"

    async def run() -> None:
        head = headers(request(b"/first", method=b"POST", extra=[(b"content-length", length)]))
        await send(node, head + frame(0, body))
        assert b"sound" in await send(node, headers(request(b"/sound")))

    asyncio.run(run())
    assert "/second" not in [target for _, target, _, _ in upstream.requests]


def test_what_looks_like_a_chunk_stays_in_the_body(stage: tuple[Node, Upstream]) -> None:
    node, upstream = stage
    body = b"0\r\n\r\nGET /second HTTP/1.1\r\nhost: a\r\n\r\n"

    async def run() -> None:
        await send(node, headers(request(b"/chunks", method=b"POST")) + frame(0, body))
        await send(node, headers(request(b"/sound")))

    asyncio.run(run())
    assert [(target, content) for _, target, _, content in upstream.requests[-2:]] == [
        ("/chunks", body),
        ("/sound", b""),
    ]
