"""HTTP/2 upstreams and gRPC through a whole node, by both engines: a real gRPC server, trailers, WebSocket refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.grpc_bytes import message, messages
from tests.support.grpc_service import SERVICE, Service, grpc_server
from tests.support.h3 import H3Client, Reply
from tests.support.node import ENGINES, Node, running_node
from tests.support.waiting import poll

CONFIG = """\
server:
  listen: "127.0.0.1:0"
  workers: 1
  engine: ENGINE
  tls: {certificate: "DIRECTORY/certificate.pem", private_key: "DIRECTORY/key.pem"}
content:
  proxies: [{hostname: localhost, upstream: "h2c://127.0.0.1:PORT"}]
"""
FIELDS = {"content_type": "application/grpc", "te": "trailers", "user_agent": "by-hand/1"}


@dataclass
class Stage:
    """A node with a gRPC server behind it."""

    node: Node
    service: Service


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    service = Service()
    with grpc_server(service) as port:
        config = CONFIG.replace("ENGINE", request.param).replace("PORT", str(port))
        with running_node(engine=request.param, config=config) as node:
            yield Stage(node, service)


@pytest.fixture
def client(stage: Stage) -> Iterator[H3Client]:
    with H3Client(stage.node.port, stage.node.ca) as client:
        yield client


def call(client: H3Client, method: str, *payloads: bytes) -> Reply:
    return client.finish(client.send("POST", SERVICE + method, FIELDS, body=b"".join(map(message, payloads))))


@pytest.mark.parametrize("length", [5, 300_000])
def test_a_unary_call(stage: Stage, client: H3Client, length: int) -> None:
    payload = bytes(range(256)) * (length // 256) + b"x" * (length % 256)
    reply = call(client, "Unary", payload)
    assert (reply.status, messages(reply.body)) == (200, [payload[::-1]])
    assert (reply.trailers["grpc-status"], reply.trailers["x-sum"]) == ("0", str(length))
    assert stage.service.metadata["x-forwarded-proto"] == "https"
    assert stage.service.metadata["user-agent"] == "by-hand/1"


def test_an_error_is_a_status_in_trailers(client: H3Client) -> None:
    reply = call(client, "Fail", b"x")
    fields = reply.headers | reply.trailers
    assert (reply.status, fields["grpc-status"], fields["grpc-message"]) == (200, "9", "not now: 100%25")


def test_streams_of_either_side(client: H3Client) -> None:
    reply = call(client, "Download", b"abc")
    assert (messages(reply.body), reply.trailers["grpc-status"]) == ([b"abc"] * 20, "0")
    reply = call(client, "Upload", b"a", b"b", b"c")
    assert (messages(reply.body), reply.trailers["grpc-status"]) == ([b"a-b-c"], "0")


def test_both_sides_stream_at_the_same_time(client: H3Client) -> None:
    stream = client.send("POST", SERVICE + "Chat", FIELDS, body=message(b"one"), end=False)
    reply = client.protocol.replies[stream]
    for n in range(1, 4):
        poll(lambda n=n: len(reply.body) == 8 * n, "an answer to each message", 10)
        client.body(stream, message(b"two") if n < 3 else b"", end=n == 3)
    client.finish(stream)
    assert (messages(reply.body), reply.trailers["grpc-status"]) == ([b"ONE", b"TWO", b"TWO"], "0")


def test_a_client_that_goes_cancels_the_call(stage: Stage) -> None:
    stage.service.cancelled.clear()
    with H3Client(stage.node.port, stage.node.ca) as gone:
        stream = gone.send("POST", SERVICE + "Hang", FIELDS, body=message(b"x"))
        poll(lambda: messages(gone.protocol.replies[stream].body) == [b"first"], "the first message", 10)
    poll(stage.service.cancelled.is_set, "the call to be cancelled", 10)
