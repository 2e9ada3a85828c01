"""gRPC through a proxy to a real server: messages stream both ways, and the status arrives in trailers.

gRPC for Python has no HTTP/3, so the client is ours; the frames are those of gRPC's HTTP/2 mapping.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tests.support.node import ENGINES, Node, running_node
from velocity_edge.client.h3_client import Options, connect
from velocity_edge.client.response import Response

pytestmark = pytest.mark.interop

CONFIG = """\
server:
  listen: "127.0.0.1:0"
  workers: 1
  engine: ENGINE
  tls: {certificate: "DIRECTORY/certificate.pem", private_key: "DIRECTORY/key.pem"}
content:
  proxies:
  - {hostname: localhost, upstream: "h2c://127.0.0.1:PORT"}
"""
FIELDS = (("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "10S"))


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Methods on bytes: no generated code."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []

    def service(self, details: Any) -> Any:
        self.metadata.append(dict(details.invocation_metadata))
        method = details.method.rpartition("/")[2]
        if method == "Unary":
            return grpc.unary_unary_rpc_method_handler(lambda message, _: message.upper())
        if method == "Count":
            return grpc.unary_stream_rpc_method_handler(lambda message, _: (b"%d" % n for n in range(int(message))))
        if method == "Chat":
            return grpc.stream_stream_rpc_method_handler(lambda messages, _: (m.upper() for m in messages))
        if method == "Fail":
            return grpc.unary_unary_rpc_method_handler(self._fail)
        return None

    @staticmethod
    def _fail(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-detail", "7"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")
        return b""


@dataclass
class Stage:
    node: Node
    server: Echo


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = CONFIG.replace("ENGINE", request.param).replace("PORT", str(port))
    # The node first: a process that has begun to use gRPC is slow to start others.
    with running_node(engine=request.param, config=config) as node:
        server, echo = grpc.server(futures.ThreadPoolExecutor(4)), Echo()
        server.add_generic_rpc_handlers((echo,))
        assert server.add_insecure_port(f"127.0.0.1:{port}") == port
        server.start()
        yield Stage(node, echo)
        server.stop(None).wait()


def framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


async def messages(response: Response) -> AsyncIterator[bytes]:
    buffer = b""
    async for chunk in response:
        buffer += chunk
        while len(buffer) >= 5 and len(buffer) >= 5 + (length := struct.unpack(">I", buffer[1:5])[0]):
            yield buffer[5 : 5 + length]
            buffer = buffer[5 + length :]
    assert buffer == b""


async def call(stage: Stage, method: str, message: bytes) -> tuple[list[bytes], dict[str, str]]:
    async with connect(stage.node.url(), Options(cafile=stage.node.ca)) as connection:
        response = await connection.request("POST", f"/test.Echo/{method}", FIELDS, framed(message))
        assert response.status == 200
        assert dict(response.headers)["content-type"] == "application/grpc"
        got = [one async for one in messages(response)]
        return got, dict(response.trailers or response.headers)


@pytest.mark.parametrize("n_bytes", [0, 5, 1_000_000])
def test_a_call_with_one_message(stage: Stage, n_bytes: int) -> None:
    got, trailers = asyncio.run(call(stage, "Unary", b"x" * n_bytes))
    assert got == [b"X" * n_bytes]
    assert trailers["grpc-status"] == "0"


def test_a_response_of_many_messages(stage: Stage) -> None:
    got, trailers = asyncio.run(call(stage, "Count", b"500"))
    assert got == [b"%d" % n for n in range(500)]
    assert trailers["grpc-status"] == "0"


@pytest.mark.parametrize(("method", "status"), [("Fail", "9"), ("Missing", "12")])
def test_a_failure_arrives_as_the_server_gave_it(stage: Stage, method: str, status: str) -> None:
    got, trailers = asyncio.run(call(stage, method, b"x"))
    assert (got, trailers["grpc-status"]) == ([], status)
    if method == "Fail":
        assert (trailers["grpc-message"], trailers["x-detail"]) == ("not now", "7")


def test_a_conversation_passes_message_by_message(stage: Stage) -> None:
    async def run() -> None:
        to_send: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            while (message := await to_send.get()) is not None:
                yield framed(message)

        async with connect(stage.node.url(), Options(cafile=stage.node.ca)) as connection:
            to_send.put_nowait(b"m0")
            response = await connection.request("POST", "/test.Echo/Chat", FIELDS, body())
            answers = messages(response)
            for n in range(20):
                assert await anext(answers) == b"M%d" % n
                to_send.put_nowait(b"m%d" % (n + 1) if n < 19 else None)
            assert [one async for one in answers] == []
            assert dict(response.trailers)["grpc-status"] == "0"

    asyncio.run(run())
    assert stage.server.metadata[-1]["x-forwarded-for"] == "127.0.0.1"
