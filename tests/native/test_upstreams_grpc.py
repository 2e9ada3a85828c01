"""A real gRPC server behind the engine: its status is a trailer, and messages stream both ways (grpc-over-HTTP/2).

The client frames messages by hand.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.engine_driver import Response, StockClient, pattern
from tests.support.grpc_bytes import message, messages
from tests.support.grpc_service import Service, grpc_server
from tests.support.upstream_world import UpstreamWorld
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolSettings

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

H3_REQUEST_CANCELLED = 0x10C
FIELDS = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"user-agent", b"by-hand/1")]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def world(service: Service) -> Iterator[UpstreamWorld]:
    with grpc_server(service) as port:
        world = UpstreamWorld([("127.0.0.1", port)], PoolSettings(protocol="h2"))
        yield world
        world.close()


def call(world: UpstreamWorld, method: str, *payloads: bytes, end: bool = True) -> tuple[StockClient, Response]:
    client = world.client()
    body = b"".join(map(message, payloads))
    return client, client.request("POST", f"/test.Test/{method}", body=body, headers=FIELDS, end=end)


def finished(world: UpstreamWorld, method: str, *payloads: bytes) -> Response:
    _, response = call(world, method, *payloads)
    world.until(lambda: response.over)
    return response


@pytest.mark.parametrize("length", [0, 5, 1_500_000])
def test_a_unary_call(world: UpstreamWorld, service: Service, length: int) -> None:
    response = finished(world, "Unary", pattern(length))
    assert (response.status, response.headers[b"content-type"]) == (200, b"application/grpc")
    assert messages(bytes(response.body)) == [pattern(length)[::-1]]
    assert dict(response.trailers)[b"grpc-status"] == b"0"
    assert dict(response.trailers)[b"x-sum"] == b"%d" % length
    assert service.metadata["user-agent"] == "by-hand/1"
    assert world.ended().outcome == Outcome.COMPLETE


def test_an_error_is_a_status_in_trailers(world: UpstreamWorld) -> None:
    response = finished(world, "Fail", b"x")
    fields = {**response.headers, **dict(response.trailers)}
    assert (response.status, fields[b"grpc-status"], fields[b"grpc-message"]) == (200, b"9", b"not now: 100%25")
    assert response.body == b""


def test_an_unknown_method_is_an_answer_of_fields_alone(world: UpstreamWorld) -> None:
    response = finished(world, "Nothing", b"x")
    assert (response.status, {**response.headers, **dict(response.trailers)}[b"grpc-status"]) == (200, b"12")


def test_a_stream_of_the_server(world: UpstreamWorld) -> None:
    response = finished(world, "Download", pattern(60_000))
    assert messages(bytes(response.body)) == [pattern(60_000)] * 20
    assert dict(response.trailers)[b"grpc-status"] == b"0"


def test_a_stream_of_the_client(world: UpstreamWorld) -> None:
    response = finished(world, "Upload", *(b"%d" % n for n in range(100)))
    assert messages(bytes(response.body)) == [b"-".join(b"%d" % n for n in range(100))]
    assert dict(response.trailers)[b"grpc-status"] == b"0"


def test_both_stream_at_the_same_time(world: UpstreamWorld) -> None:
    client, response = call(world, "Chat", b"one", end=False)
    assert client.http is not None
    for n in range(1, 6):
        world.until(lambda n=n: len(response.body) == 8 * n)  # type: ignore[misc]
        client.http.send_data(response.stream_id, message(b"two") if n < 5 else b"", end_stream=n == 5)
    world.until(lambda: response.done)
    assert messages(bytes(response.body)) == [b"ONE", *[b"TWO"] * 4]
    assert dict(response.trailers)[b"grpc-status"] == b"0"


def test_a_client_that_goes_cancels_the_call(world: UpstreamWorld, service: Service) -> None:
    client, response = call(world, "Hang", b"x")
    world.until(lambda: messages(bytes(response.body)) == [b"first"])
    client.quic.stop_stream(response.stream_id, H3_REQUEST_CANCELLED)
    world.until(service.cancelled.is_set)
    assert world.ended().outcome == Outcome.CLIENT_GONE
    assert dict(finished(world, "Unary", b"ab").trailers)[b"grpc-status"] == b"0"


def test_calls_share_a_connection(world: UpstreamWorld) -> None:
    client = world.client()
    responses = [client.request("POST", "/test.Test/Unary", body=message(b"%d" % n), headers=FIELDS) for n in range(60)]
    world.until(lambda: all(response.done for response in responses))
    assert [messages(bytes(response.body)) for response in responses] == [
        [b"%d" % n][:1] if n < 10 else [(b"%d" % n)[::-1]] for n in range(60)
    ]
    assert world.counts().connects == 1
