"""A client that prioritises its requests (RFC 9218) is served like any other, for any number of requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import encode_frame

from tests.support.engine_driver import StockClient, World
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
PRIORITY_UPDATE = 0xF0700


def prioritise(client: StockClient, stream_id: int, value: bytes = b"u=1, i") -> None:
    """PRIORITY_UPDATE for a request stream (RFC 9218 section 7.2)."""
    http: Any = client.http
    frame = encode_frame(PRIORITY_UPDATE, encode_uint_var(stream_id) + value)
    client.quic.send_stream_data(http._local_control_stream_id, frame)


@pytest.mark.parametrize("at_once", [5, 100])
def test_a_request_may_be_prioritised_before_it_is_sent(world: Make, at_once: int) -> None:
    """As Chromium does. The stream limit grows, and the check of priorities must follow it."""
    w = world(limits=Limits(max_streams_bidi=at_once))
    client = w.ready()
    for _ in range(2 * at_once + 50):
        prioritise(client, client.quic.get_next_available_stream_id())
        assert client.fetch("/bytes/10", seconds=5).status == 200, client.terminated
    assert client.terminated is None


@pytest.mark.parametrize("at_once", [5, 100])
def test_requests_up_to_the_stream_limit_may_be_prioritised(world: Make, at_once: int) -> None:
    w = world(limits=Limits(max_streams_bidi=at_once))
    client = w.ready()
    for _ in range(4):
        first = client.quic.get_next_available_stream_id()
        limit = 4 * client.quic._remote_max_streams_bidi
        assert limit > first
        for stream_id in reversed(range(first, limit, 4)):
            prioritise(client, stream_id)
        responses = [client.get("/bytes/100") for _ in range(first, limit, 4)]
        w.run(lambda r=responses: all(response.over for response in r), seconds=20)
        assert {response.status for response in responses} == {200}, client.terminated
        w.run(seconds=1)
