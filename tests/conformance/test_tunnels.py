"""Extended CONNECT (RFC 9220) is offered; such a stream carries bytes both ways until each side ends or resets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aioquic.h3.connection import Setting, parse_settings

from tests.support.engine_driver import Response, StockClient, World, pattern
from tests.support.h3_bytes import frame, headers, request
from velocity_edge.http.requests import RequestReceived
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
H3_REQUEST_CANCELLED, H3_MESSAGE_ERROR = 0x10C, 0x10E
DATA = 0


def tunnel(client: StockClient, protocol: bytes = b"websocket", path: bytes = b"/chat?x=1", *more: Any) -> Response:
    """Send an extended CONNECT that stays open."""
    stream_id = client.quic.get_next_available_stream_id()
    response = client.responses[stream_id] = Response(stream_id)
    fields = request(path, b"CONNECT", extra=[(b":protocol", protocol), *more])
    client.quic.send_stream_data(stream_id, headers(fields))
    return response


def accept_all(w: World) -> Callable[[], RequestReceived]:
    w.app.handler = lambda event: w.engine.respond(event.stream, 200, [], None, fin=False)
    return lambda: w.app.requests[-1]


def test_settings_offer_extended_connect(world: Make) -> None:
    w = world()
    client = w.ready()
    assert client.http is not None
    w.run(lambda: client.http.received_settings is not None, seconds=5)  # type: ignore[union-attr]
    assert client.http.received_settings is not None
    assert client.http.received_settings[Setting.ENABLE_CONNECT_PROTOCOL] == 1
    assert parse_settings(b"\x08\x01") == {Setting.ENABLE_CONNECT_PROTOCOL: 1}


@pytest.mark.parametrize("protocol", [b"websocket", b"connect-udp", b"X!~"])
def test_the_protocol_reaches_the_handler_with_the_whole_target(world: Make, protocol: bytes) -> None:
    w = world()
    client = w.ready()
    last = accept_all(w)
    response = tunnel(client, protocol, b"/chat?x=1", (b"sec-websocket-version", b"13"))
    w.run(lambda: response.status != 0, seconds=5)
    event = last()
    assert (event.method, event.protocol, event.scheme) == (b"CONNECT", protocol, b"https")
    assert (event.authority, event.path, event.fin) == (b"localhost", b"/chat?x=1", False)
    assert list(event.headers) == [(b"sec-websocket-version", b"13")]
    assert (response.status, response.done) == (200, False)


def test_other_requests_have_no_protocol(world: Make) -> None:
    w = world()
    client = w.ready()
    client.fetch("/bytes/1")
    assert w.app.requests[-1].protocol == b""


def test_a_section_that_is_too_large_shows_no_protocol(world: Make) -> None:
    w = world(limits=Limits(max_field_section_bytes=1024))
    client = w.ready()
    w.app.handler = lambda event: w.engine.respond(event.stream, 431, [], b"")
    response = tunnel(client, b"websocket", b"/", *((b"x-%d" % n, b"v" * 200) for n in range(8)))
    w.run(lambda: response.done, seconds=5)
    assert (response.status, w.app.requests[-1].protocol, w.app.requests[-1].fields_too_large) == (431, b"", True)


def test_bytes_pass_both_ways_at_any_time(world: Make) -> None:
    """Neither side has a length, and each one ends when it wants."""
    w = world()
    client = w.ready()
    last = accept_all(w)
    w.app._body = lambda event: w.engine.write(event.stream, event.data.upper(), fin=event.fin)  # type: ignore[method-assign]
    response = tunnel(client)
    w.run(lambda: response.status == 200, seconds=5)
    w.engine.write(last().stream, b"hello ", fin=False)
    w.run(lambda: bytes(response.body) == b"hello ", seconds=5)
    for number in range(5):
        client.quic.send_stream_data(response.stream_id, frame(DATA, b"ping"))
        w.run(lambda n=number: len(response.body) == 6 + 4 * (n + 1), seconds=5)
    assert not response.done
    client.quic.send_stream_data(response.stream_id, b"", end_stream=True)
    w.run(lambda: response.done, seconds=5)
    assert bytes(response.body) == b"hello " + b"PING" * 5


def test_a_tunnel_has_credit_for_what_is_taken_and_no_more(world: Make) -> None:
    w = world(limits=Limits(stream_window_bytes=65_536, connection_window_bytes=262_144))
    client = w.ready()
    last = accept_all(w)
    w.app.paths.clear()
    taken = bytearray()
    w.app._body = lambda event: taken.extend(event.data)  # type: ignore[method-assign]
    response = tunnel(client)
    w.run(lambda: response.status == 200, seconds=5)
    client.quic.send_stream_data(response.stream_id, frame(DATA, pattern(200_000)))
    w.run(seconds=5)
    assert 60_000 < len(taken) <= 65_536
    w.engine.credit(last().stream, len(taken))
    w.run(seconds=5)
    assert 120_000 < len(taken) <= 131_072
    assert bytes(taken) == pattern(200_000)[: len(taken)]


@pytest.mark.parametrize("answered", [False, True])
def test_a_tunnel_that_the_client_resets_is_over(world: Make, answered: bool) -> None:
    """Also when it only stops sending by a reset: what remains of a tunnel is of no use."""
    w = world()
    client = w.ready()
    if answered:
        accept_all(w)
    else:
        w.app.handler = lambda event: None
    response = tunnel(client)
    w.run(lambda: len(w.app.requests) == 1 and (response.status == 200) is answered, seconds=5)
    client.quic.reset_stream(response.stream_id, H3_REQUEST_CANCELLED)
    w.run(lambda: bool(w.app.stream_closed), seconds=5)
    [closed] = w.app.stream_closed
    assert (closed.complete, closed.error_code) == (False, H3_REQUEST_CANCELLED)
    assert w.engine.write(w.app.requests[0].stream, b"late", fin=False) == -1


def test_a_tunnel_that_is_refused_can_go_on_as_an_answer(world: Make) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda event: w.engine.respond(event.stream, 501, [], b"no")
    response = tunnel(client, b"connect-ip")
    w.run(lambda: response.done, seconds=5)
    assert (response.status, bytes(response.body)) == (501, b"no")
    assert client.fetch("/x", method="GET").status == 501


def test_one_direction_of_a_tunnel_may_go_on_after_the_other_has_ended(world: Make) -> None:
    """An ordinary request that still comes in after its whole answer is stopped after `request_timeout_s`."""
    w = world(limits=Limits(request_timeout_s=5.0))
    client = w.ready()
    last = accept_all(w)
    taken = bytearray()
    w.app._body = lambda event: taken.extend(event.data)  # type: ignore[method-assign]
    response = tunnel(client)
    w.run(lambda: response.status == 200, seconds=5)
    w.engine.write(last().stream, b"bye", fin=True)
    w.run(lambda: response.done, seconds=5)
    w.run(seconds=12)
    client.quic.send_stream_data(response.stream_id, frame(DATA, b"still here"), end_stream=True)
    w.run(lambda: bool(w.app.stream_closed), seconds=5)
    assert bytes(taken) == b"still here"
    assert w.app.stream_closed[0].complete
