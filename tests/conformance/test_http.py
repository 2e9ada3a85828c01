"""Requests and answers: what a handler gets, what a client gets, and what happens when one of them ends early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aioquic.h3.connection import FrameType, encode_frame

from tests.support.engine_driver import FileRange, StockClient, World, pattern
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
H3_NO_ERROR, H3_REQUEST_REJECTED, H3_REQUEST_CANCELLED = 0x100, 0x10B, 0x10C
H3_FRAME_UNEXPECTED = 0x105


def test_a_request_arrives_as_it_was_sent(world: Make) -> None:
    w = world()
    client = w.ready()
    client.fetch("/a/b?c=d", headers=[(b"x-one", b"1"), (b"x-one", b"2"), (b"cookie", b"a=b")])
    [request] = w.app.requests
    assert (request.method, request.scheme, request.path) == (b"GET", b"https", b"/a/b?c=d")
    assert request.authority == b"velocity.test"
    assert list(request.headers) == [(b"x-one", b"1"), (b"x-one", b"2"), (b"cookie", b"a=b")]
    assert request.fin
    assert not request.early


@pytest.mark.parametrize(
    "path",
    ["/bytes/0", "/bytes/1", "/bytes/100000", "/bytes/3000000", "/file/4000000", "/stream/1000000"],
)
def test_bodies_of_every_kind_arrive_whole(world: Make, path: str) -> None:
    w = world()
    client = w.ready()
    response = client.fetch(path)
    length = int(path.rpartition("/")[2])
    assert (response.status, response.done, len(response.body)) == (200, True, length)
    assert bytes(response.body) == (bytes(length) if path.startswith("/stream") else pattern(length))
    w.run(seconds=1)
    [closed] = w.app.stream_closed
    assert closed.complete


def test_a_worker_above_its_memory_share_serves_with_less(world: Make) -> None:
    w = world(limits=Limits(max_unacked_bytes_per_worker=1, send_high_bytes=65_536, send_low_bytes=16_384))
    client = w.ready()
    responses = [client.get("/file/500000") for _ in range(4)]
    w.run(lambda: all(response.done for response in responses))
    assert {bytes(response.body) for response in responses} == {pattern(500_000)}


def test_a_range_of_a_file_is_that_range(world: Make) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda request: w.engine.respond(request.stream, 206, [], FileRange(w.app, 1_000_000, 500_000))
    response = client.fetch("/")
    assert bytes(response.body) == pattern(1_500_000)[1_000_000:]


def test_pieces_written_behind_a_file_stay_behind_it(world: Make) -> None:
    w = world()
    client = w.ready()

    def handler(request: Any) -> None:
        w.engine.respond(request.stream, 200, [], FileRange(w.app, 0, 1_000_000), fin=False)
        w.engine.write(request.stream, b"and ", fin=False)
        w.engine.write(request.stream, b"more", fin=True)

    w.app.handler = handler
    assert bytes(client.fetch("/").body) == pattern(1_000_000) + b"and more"


def test_a_file_truncated_meanwhile_resets_the_stream(world: Make) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda request: w.engine.respond(request.stream, 200, [], FileRange(w.app, 0, 5_000_000))
    response = client.fetch("/")
    assert response.reset is not None
    assert not response.done
    assert client.fetch("/x", seconds=5).reset is not None
    assert client.terminated is None


def test_uploads_arrive_whole_and_with_credit_of_any_size(world: Make) -> None:
    w = world()
    client = w.ready()
    body = pattern(3_000_000)
    response = client.fetch("/echo", method="POST", body=body)
    assert bytes(response.body) == body


def test_a_body_without_credit_stops(world: Make) -> None:
    """Back-pressure: without credit the peer may send exactly one stream window; with credit it continues."""
    w = world(limits=Limits(stream_window_bytes=65_536, connection_window_bytes=262_144))
    client = w.ready()
    response = client.request("POST", "/deaf", body=pattern(400_000))
    w.run(seconds=20)
    [request] = w.app.requests
    held = len(w.app.bodies[request.stream])
    assert held <= 65_536
    assert held > 60_000
    while not response.done:
        taken = len(w.app.bodies[request.stream])
        w.engine.credit(request.stream, taken - (held - len(b"")) if taken > held else held)
        held = max(taken, held)
        w.run(seconds=1)
        assert w.now_ns < 1e13
    assert response.body == b"400000"


def test_unread_bodies_do_not_use_up_the_connection_window(world: Make) -> None:
    w = world(limits=Limits(stream_window_bytes=65_536, connection_window_bytes=131_072))
    client = w.ready()
    for _ in range(6):
        response = client.request("POST", "/deaf", body=pattern(60_000), end=False)
        w.run(seconds=1)
        w.engine.reset(w.app.requests[-1].stream, H3_NO_ERROR)
        w.run(lambda r=response: r.over, seconds=5)
    assert client.fetch("/count", method="POST", body=pattern(200_000)).body == b"200000"


def test_head_204_and_304_have_no_body(world: Make) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda request: w.engine.respond(
        request.stream, int(request.path[1:]), [], b"a body that must not be sent"
    )
    assert client.fetch("/204").body == b""
    assert client.fetch("/304").body == b""
    assert client.fetch("/200", method="HEAD").body == b""
    assert client.fetch("/200").body == b"a body that must not be sent"


def test_interim_responses_come_before_the_answer(world: Make) -> None:
    w = world()
    client = w.ready()

    def handler(request: Any) -> None:
        w.engine.respond(request.stream, 103, [(b"link", b"</a>; rel=preload")], fin=False)
        w.engine.respond(request.stream, 200, [], b"ok")

    w.app.handler = handler
    response = client.fetch("/")
    assert (response.interim, response.status, response.body) == ([103], 200, b"ok")


def test_a_client_continues_after_100(world: Make) -> None:
    w = world()
    client = w.ready()
    by_path = w.app.respond_by_path

    def handler(request: Any) -> None:
        w.engine.respond(request.stream, 100, (), None, fin=False)
        by_path(request)

    w.app.handler = handler
    response = client.request("POST", "/echo", headers=[(b"expect", b"100-continue")], end=False)
    w.run(lambda: response.interim == [100], seconds=5)
    assert (response.interim, response.status) == ([100], 0)
    assert client.http is not None
    client.http.send_data(response.stream_id, b"hello", end_stream=True)
    w.run(lambda: response.done, seconds=5)
    assert (response.status, response.body) == (200, b"hello")


def test_a_hundred_requests_at_once(world: Make) -> None:
    w = world()
    client = w.ready()
    responses = [client.get(f"/bytes/{1000 + n}") for n in range(100)]
    w.run(lambda: all(response.done for response in responses))
    assert [len(response.body) for response in responses] == [1000 + n for n in range(100)]
    more = [client.get("/bytes/10") for n in range(150)]
    w.run(lambda: all(response.done for response in more))
    w.run(seconds=1)
    assert len({request.stream for request in w.app.requests}) == 250
    assert w.engine.connections()[0][2] == 0


def test_several_clients_at_once(world: Make) -> None:
    w = world(loss=0.05, reorder=0.2, seed=3)
    clients = [w.connect() for _ in range(12)]
    w.run(lambda: all(client.ready for client in clients), seconds=120)
    responses = [client.get(f"/bytes/{10_000 + n}") for n, client in enumerate(clients)]
    w.run(lambda: all(response.done for response in responses), seconds=120)
    assert [len(response.body) for response in responses] == [10_000 + n for n in range(12)]


# --- going away ------------------------------------------------------------------------------------------------------


def test_a_cancelled_request_is_reported_and_a_late_answer_refused(world: Make) -> None:
    w = world()
    client = w.ready()
    response = client.get("/hang")
    w.run(lambda: len(w.app.requests) == 1)
    client.quic.stop_stream(response.stream_id, H3_REQUEST_CANCELLED)
    w.run(lambda: len(w.app.stream_closed) == 1)
    [closed] = w.app.stream_closed
    assert (closed.complete, closed.error_code) == (False, H3_REQUEST_CANCELLED)
    stream = w.app.requests[0].stream
    assert w.engine.respond(stream, 200, [], b"late") is False
    assert w.engine.write(stream, b"late", fin=True) == -1
    w.engine.credit(stream, 10)
    w.engine.reset(stream, 0)
    assert client.fetch("/bytes/5").done


def test_an_upload_that_is_cut_off_is_reported(world: Make) -> None:
    w = world()
    client = w.ready()
    response = client.request("POST", "/count", body=b"begun", end=False)
    w.run(lambda: bool(w.app.bodies))
    client.quic.reset_stream(response.stream_id, H3_REQUEST_CANCELLED)
    w.run(lambda: len(w.app.stream_closed) == 1)
    assert not w.app.stream_closed[0].complete
    assert client.fetch("/bytes/5").done


def test_an_answer_before_the_end_of_the_request_lets_the_client_stop(world: Make) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda request: w.engine.respond(request.stream, 413, [], b"too much")
    response = client.request("POST", "/", body=pattern(100_000), end=False)
    w.run(lambda: response.done, seconds=5)
    assert (response.status, response.body) == (413, b"too much")
    assert client.terminated is None


def test_answers_before_the_end_of_a_request_are_no_glitches(world: Make) -> None:
    """At any rate: a static site answers every upload so. The rest of the request is not needed."""
    w = world(limits=Limits(max_glitches_per_s=5))
    client = w.ready()
    w.app.handler = lambda request: w.engine.respond(request.stream, 405, [], b"no")
    responses = [client.request("POST", "/", body=b"begun", end=False) for _ in range(30)]
    w.run(lambda: all(response.over for response in responses) or client.terminated is not None, seconds=5)
    w.run(seconds=1)
    assert client.terminated is None
    assert [response.status for response in responses] == [405] * 30
    assert (w.counters()["glitches"], w.counters()["streams_reset"]) == (0, 0)
    for response in responses:
        client.quic.reset_stream(response.stream_id, H3_NO_ERROR)
    w.run(seconds=1)
    assert [closed.complete for closed in w.app.stream_closed] == [True] * 30
    assert w.counters()["glitches"] == 0
    assert w.engine.connections()[0][2] == 0


def test_an_upload_may_continue_after_its_answer_for_a_while(
    world: Make,
) -> None:
    """Chromium never shows an answer when it is asked to stop before it has sent everything."""
    w = world(limits=Limits(request_timeout_s=5.0))
    client = w.ready()
    w.app.handler = lambda request: w.engine.respond(request.stream, 405, [], b"no")
    quick, slow = (client.request("POST", "/deaf", body=b"begun", end=False) for _ in range(2))
    w.run(lambda: quick.done and slow.done, seconds=2)
    assert client.http is not None
    client.http.send_data(quick.stream_id, b"rest", end_stream=True)
    w.run(seconds=2)
    assert _stopped(client) == {}
    assert [closed.complete for closed in w.app.stream_closed] == [True]
    w.run(seconds=5)
    assert _stopped(client) == {slow.stream_id: H3_NO_ERROR}
    w.run(seconds=1)
    assert [closed.complete for closed in w.app.stream_closed] == [True, True]
    assert w.counters()["glitches"] == 0
    assert w.engine.connections()[0][2] == 0
    assert client.fetch("/bytes/5").status == 405


def _stopped(client: StockClient) -> dict[int, int]:
    """Streams that the server asked to stop, and with which error."""
    return {e.stream_id: e.error_code for e in client.events if type(e).__name__ == "StopSendingReceived"}


def test_answers_to_cancelled_requests_are_counted(world: Make) -> None:
    w = world()
    client = w.ready()
    response = client.get("/file/3000000")
    w.run(lambda: len(response.body) > 10_000, seconds=5)
    client.quic.stop_stream(response.stream_id, H3_REQUEST_CANCELLED)
    w.run(lambda: bool(w.app.stream_closed), seconds=5)
    [closed] = w.app.stream_closed
    assert (closed.complete, closed.error_code) == (False, H3_REQUEST_CANCELLED)
    assert (w.counters()["glitches"], w.counters()["streams_reset"]) == (1, 1)


def test_a_stream_that_the_server_resets_ends(world: Make) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda request: w.engine.reset(request.stream, 0x10C)
    response = client.fetch("/", seconds=5)
    assert response.reset == 0x10C
    w.run(seconds=1)
    assert w.engine.connections()[0][2] == 0


def test_answers_on_a_closed_connection_return_false(world: Make) -> None:
    w = world()
    client = w.ready()
    client.get("/hang")
    w.run(lambda: len(w.app.requests) == 1)
    client.close()
    w.run(lambda: len(w.app.closed) == 1)
    [closed] = w.app.closed
    assert closed.by_peer
    assert closed.application
    assert closed.error_code == 0x100
    assert w.app.stream_closed[0].stream == w.app.requests[0].stream
    assert w.engine.respond(w.app.requests[0].stream, 200, [], b"late") is False
    assert w.engine.write(w.app.requests[0].stream, b"", fin=True) == -1
    w.engine.close(closed.connection, 0x100)
    w.engine.goaway(closed.connection, final=True)


def test_streams_close_before_their_connection_and_once(world: Make) -> None:
    w = world()
    client = w.ready()
    for _ in range(5):
        client.get("/hang")
    w.run(lambda: len(w.app.requests) == 5)
    order: list[int] = []
    handle = w.app.handle

    def watch(events: Any) -> None:
        events = list(events)
        order.extend(event.kind for event in events if event.kind in (4, 5))
        handle(events)

    w.app.handle = watch  # type: ignore[method-assign]
    w.engine.close(w.app.requests[0].connection, 0x100, "enough")
    w.run(lambda: client.terminated is not None, seconds=10)
    assert order == [4, 4, 4, 4, 4, 5]
    assert client.terminated.error_code == 0x100
    assert client.terminated.reason_phrase == "enough"
    assert w.engine.connections() == []


# --- GOAWAY ----------------------------------------------------------------------------------------------------------


def test_goaway_has_the_largest_id_and_then_the_final_one(world: Make) -> None:
    w = world()
    client = w.ready()
    seen = _control_frames(client)
    client.fetch("/bytes/10")
    connection = w.app.requests[0].connection
    w.engine.goaway(connection, final=False)
    w.run(seconds=1)
    assert seen() == [(1 << 62) - 4]
    assert client.fetch("/bytes/10").done
    w.engine.goaway(connection, final=True)
    w.run(seconds=1)
    assert seen() == [(1 << 62) - 4, 8]
    late = client.fetch("/bytes/10", seconds=5)
    assert late.reset == H3_REQUEST_REJECTED
    assert len(w.app.requests) == 2


def _control_frames(client: StockClient) -> Callable[[], list[int]]:
    """Return a function that says which ids GOAWAY frames named so far."""
    from aioquic.buffer import Buffer

    def read() -> list[int]:
        data = b"".join(event.data for event in client.events if getattr(event, "stream_id", None) == 3)
        buf = Buffer(data=data)
        buf.pull_uint_var()
        ids = []
        while not buf.eof():
            kind, length = buf.pull_uint_var(), buf.pull_uint_var()
            payload = buf.pull_bytes(length)
            if kind == 7:
                ids.append(Buffer(data=payload).pull_uint_var())
        return ids

    return read


# --- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (encode_frame(FrameType.DATA, b"x"), {H3_FRAME_UNEXPECTED}),
        (encode_frame(FrameType.SETTINGS, b""), {H3_FRAME_UNEXPECTED}),
        (encode_frame(FrameType.GOAWAY, b"\x00"), {H3_FRAME_UNEXPECTED}),
        (encode_frame(0x2, b""), {H3_FRAME_UNEXPECTED}),
    ],
)
def test_a_frame_that_breaks_the_protocol_ends_the_connection(world: Make, frame: bytes, error: set[int]) -> None:
    w = world()
    client = w.ready()
    client.quic.send_stream_data(client.quic.get_next_available_stream_id(), frame)
    w.run(lambda: client.terminated is not None, seconds=10)
    assert client.terminated.error_code in error
    assert w.app.closed[0].by_peer is False


def test_unknown_frames_are_ignored(world: Make) -> None:
    w = world()
    client = w.ready()
    assert client.http is not None
    stream_id = client.quic.get_next_available_stream_id()
    client.quic.send_stream_data(stream_id, encode_frame(0x21, b"grease" * 100))
    response = client.request("GET", "/bytes/7")
    w.run(lambda: response.done, seconds=5)
    assert len(response.body) == 7
