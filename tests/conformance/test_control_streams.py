"""What a peer may not send on its unidirectional streams closes the connection, with the error of the RFC."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import H3Event

from tests.support.engine_driver import Response, StockClient, World
from tests.support.h3_bytes import frame, headers, request, varint
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
STREAM_CREATION, CLOSED_CRITICAL, FRAME_UNEXPECTED, FRAME_ERROR = 0x103, 0x104, 0x105, 0x106
EXCESSIVE_LOAD, ID_ERROR, SETTINGS_ERROR, MISSING_SETTINGS = 0x107, 0x108, 0x109, 0x10A
QPACK_ENCODER, QPACK_DECODER = 0x201, 0x202
DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0, 1, 3, 4, 5, 7, 0xD
UPDATE, UPDATE_PUSH = 0xF0700, 0xF0701
V = varint


class Silent(H3Connection):
    """It opens no streams by itself (the test does), and reads only answers."""

    def _init_connection(self) -> None:
        pass

    def _receive_stream_data_uni(self, *_: object) -> list[H3Event]:
        return []

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> list[tuple[bytes, bytes]]:
        return list(self._decoder.feed_header(stream_id, frame_data)[1])


def connect(w: World) -> StockClient:
    """A client that has no control stream yet."""
    client = StockClient(w, w.address())
    client.make_http = lambda: Silent(client.quic)  # type: ignore[method-assign]
    w.attach(client.address, client)
    client.start()
    w.run(lambda: client.quic._handshake_confirmed)
    return client


def outcome(w: World, client: StockClient) -> int | None:
    """The error of the connection; None when it stays open, which a request verifies."""
    w.run(lambda: client.terminated is not None, seconds=0.5)
    if client.terminated is None:
        stream_id = client.quic.get_next_available_stream_id()
        response = client.responses[stream_id] = Response(stream_id)
        client.quic.send_stream_data(stream_id, headers(request()), end_stream=True)
        w.run(lambda: response.over or client.terminated is not None, seconds=5)
        assert client.terminated is not None or response.status == 200
    return None if client.terminated is None else client.terminated.error_code


def open_uni(client: StockClient, data: bytes, *, fin: bool = False) -> int:
    stream_id: int = client.quic.get_next_available_stream_id(is_unidirectional=True)
    client.quic.send_stream_data(stream_id, data, end_stream=fin)
    return stream_id


def more(client: StockClient, stream_id: int, data: bytes, *, fin: bool = False) -> None:
    """Send more on a stream, unless the server asked to stop."""
    with contextlib.suppress(RuntimeError, ValueError):
        client.quic.send_stream_data(stream_id, data, end_stream=fin)


OPENING = b"\0" + frame(SETTINGS)
CONTROL = {
    "SETTINGS": (b"", None),
    "unknown frames": (frame(0x21, b"abc") + frame(0x4242) + b"\xff" * 8 + V(3) + b"abc", None),
    "a large unknown frame": (frame(0x21, b"a" * 3000), None),
    "an unknown frame that never ends": (V(0x21) + b"\xff" * 8 + b"x" * 500, None),
    **{
        f"frame type {kind:#x}": (frame(kind, b"\0"), FRAME_UNEXPECTED)
        for kind in (DATA, HEADERS, 2, PUSH_PROMISE, 6, 8, 9)
    },
    "an empty DATA": (frame(DATA), FRAME_UNEXPECTED),
    "SETTINGS again": (frame(SETTINGS), FRAME_UNEXPECTED),
    "SETTINGS with values again": (frame(SETTINGS, V(6) + V(100)), FRAME_UNEXPECTED),
    "CANCEL_PUSH": (frame(CANCEL_PUSH, V(0)), ID_ERROR),
    "CANCEL_PUSH of what was not promised": (frame(MAX_PUSH_ID, V(10)) + frame(CANCEL_PUSH, V(5)), ID_ERROR),
    "CANCEL_PUSH beyond the limit": (frame(MAX_PUSH_ID, V(10)) + frame(CANCEL_PUSH, V(11)), ID_ERROR),
    "an empty CANCEL_PUSH": (frame(CANCEL_PUSH), FRAME_ERROR),
    "CANCEL_PUSH and more": (frame(CANCEL_PUSH, V(0) + b"x"), FRAME_ERROR),
    "MAX_PUSH_ID": (frame(MAX_PUSH_ID, V(0)), None),
    "MAX_PUSH_ID that grows": (frame(MAX_PUSH_ID, V(3)) + frame(MAX_PUSH_ID, V(3)) + frame(MAX_PUSH_ID, V(9)), None),
    "MAX_PUSH_ID that shrinks": (frame(MAX_PUSH_ID, V(9)) + frame(MAX_PUSH_ID, V(8)), ID_ERROR),
    "MAX_PUSH_ID and more": (frame(MAX_PUSH_ID, V(9) + b"x"), FRAME_ERROR),
    "an empty MAX_PUSH_ID": (frame(MAX_PUSH_ID), FRAME_ERROR),
    "MAX_PUSH_ID that ends within its id": (frame(MAX_PUSH_ID, b"\xc0"), FRAME_ERROR),
    "GOAWAY": (frame(GOAWAY, V(7)), None),
    "GOAWAY that shrinks": (frame(GOAWAY, V(8)) + frame(GOAWAY, V(8)) + frame(GOAWAY, V(0)), None),
    "GOAWAY that grows": (frame(GOAWAY, V(0)) + frame(GOAWAY, V(1)), ID_ERROR),
    "GOAWAY and more": (frame(GOAWAY, V(4) + b"x"), FRAME_ERROR),
    "an empty GOAWAY": (frame(GOAWAY), FRAME_ERROR),
    "PRIORITY_UPDATE": (frame(UPDATE, V(0) + b"u=1"), None),
    "PRIORITY_UPDATE without a value": (frame(UPDATE, V(0)), None),
    "PRIORITY_UPDATE of the last request": (frame(UPDATE, V(4 * 99) + b"u=1, i"), None),
    "PRIORITY_UPDATE beyond the limit": (frame(UPDATE, V(4 * 100) + b"u=1"), ID_ERROR),
    "PRIORITY_UPDATE of a control stream": (frame(UPDATE, V(2) + b"u=1"), ID_ERROR),
    "PRIORITY_UPDATE of a stream of the server": (frame(UPDATE, V(1) + b"u=1"), ID_ERROR),
    "PRIORITY_UPDATE that means nothing": (frame(UPDATE, V(0) + b"\0!!"), None),
    "an empty PRIORITY_UPDATE": (frame(UPDATE), FRAME_ERROR),
    "PRIORITY_UPDATE that ends within its id": (frame(UPDATE, b"\x80\0"), FRAME_ERROR),
    "PRIORITY_UPDATE of a push": (frame(UPDATE_PUSH, V(0) + b"u=1"), ID_ERROR),
    **{
        f"{kind:#x} that is too large": (V(kind) + V(5000), EXCESSIVE_LOAD)
        for kind in (GOAWAY, MAX_PUSH_ID, CANCEL_PUSH, UPDATE)
    },
}


@pytest.mark.parametrize("name", CONTROL)
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_frames_of_the_control_stream(world: Make, name: str, byte_by_byte: bool) -> None:
    data, expected = CONTROL[name]
    w = world()
    client = connect(w)
    stream_id = open_uni(client, OPENING)
    for n in range(len(data)) if byte_by_byte and len(data) < 100 else ():
        w.run(seconds=0.02)
        client.quic.send_stream_data(stream_id, data[n : n + 1])
    if not byte_by_byte or len(data) >= 100:
        client.quic.send_stream_data(stream_id, data)
    assert outcome(w, client) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (frame(SETTINGS, V(0x21) + V(7) + V(2**60) + V(0x1234) + V(6) + V(1)), None),
        (frame(SETTINGS, b"".join(V(0x1000 + n) + V(1) for n in range(300))), None),
        (frame(SETTINGS, V(8) + V(1)), None),
        (frame(MAX_PUSH_ID, V(1)), MISSING_SETTINGS),
        (frame(0x21, b"x") + frame(SETTINGS), MISSING_SETTINGS),
        (frame(UPDATE, V(0)), MISSING_SETTINGS),
        (frame(DATA), MISSING_SETTINGS),
        *((frame(SETTINGS, V(kind) + V(1)), SETTINGS_ERROR) for kind in (0, 2, 3, 4, 5)),
        (frame(SETTINGS, V(6) + V(1) + V(6) + V(1)), SETTINGS_ERROR),
        (frame(SETTINGS, V(8) + V(2)), SETTINGS_ERROR),
        (frame(SETTINGS, V(0x33) + V(2)), SETTINGS_ERROR),
        (frame(SETTINGS, V(6)), FRAME_ERROR),
        (frame(SETTINGS, V(6) + b"\x80\0"), FRAME_ERROR),
        (frame(SETTINGS, b"\x40"), FRAME_ERROR),
        (V(SETTINGS) + V(5000), EXCESSIVE_LOAD),
    ],
)
def test_settings_come_first_and_are_valid(world: Make, data: bytes, expected: int | None) -> None:
    w = world()
    client = connect(w)
    open_uni(client, b"\0" + data)
    assert outcome(w, client) == expected


STREAMS = {
    "an unknown type": ([(b"\x21hello", False)], None),
    "an unknown type that ends": ([(V(0x54) + b"hello", True)], None),
    "nothing": ([(b"", True)], None),
    "the end within the type": ([(b"\x40", True)], None),
    "the end within a long type": ([(b"\xc0\0\0", True)], None),
    "two control streams": ([(OPENING, False), (OPENING, False)], STREAM_CREATION),
    "a push stream": ([(b"\1\0", False)], STREAM_CREATION),
    "a push stream, long": ([(b"\x40\1\0", False)], STREAM_CREATION),
    "the control stream ends": ([(OPENING, True)], CLOSED_CRITICAL),
    "the control stream ends within a frame": ([(OPENING + V(GOAWAY) + V(8) + b"x", True)], CLOSED_CRITICAL),
    "two encoder streams": ([(b"\2", False), (b"\2", False)], STREAM_CREATION),
    "two decoder streams": ([(b"\3", False), (b"\3", False)], STREAM_CREATION),
    "the encoder stream ends": ([(b"\2", True)], CLOSED_CRITICAL),
    "the decoder stream ends": ([(b"\3", True)], CLOSED_CRITICAL),
    "capacity 0": ([(b"\2\x20\x20", False)], None),
    "capacity 1": ([(b"\2\x21", False)], QPACK_ENCODER),
    "a large capacity": ([(b"\2\x3f\xe1\x1f", False)], QPACK_ENCODER),
    "an insert with a name of the table": ([(b"\2\xc0\1a", False)], QPACK_ENCODER),
    "an insert with a literal name": ([(b"\2\x41a\1b", False)], QPACK_ENCODER),
    "a duplicate": ([(b"\2\0", False)], QPACK_ENCODER),
    "an increment of 0": ([(b"\3\0", False)], QPACK_DECODER),
    "an increment": ([(b"\3\5", False)], QPACK_DECODER),
    "an acknowledgement": ([(b"\3\x80", False)], QPACK_DECODER),
    "a cancellation": ([(b"\3\x44\x7f\x81\1\x44", False)], None),
    "a cancellation of 62 bits": ([(b"\3\x7f" + b"\x80" * 8 + b"\1\x44", False)], None),
    "an acknowledgement after a cancellation": ([(b"\3\x7f\x81\1\x80", False)], QPACK_DECODER),
    "a cancellation that never ends": ([(b"\3\x7f" + b"\xff" * 12, False)], QPACK_DECODER),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_unidirectional_streams(world: Make, name: str, byte_by_byte: bool) -> None:
    streams, expected = STREAMS[name]
    w = world()
    client = connect(w)
    for data, fin in streams:
        stream_id = open_uni(client, b"" if byte_by_byte else data, fin=fin and not byte_by_byte)
        for n in range(len(data)) if byte_by_byte else ():
            more(client, stream_id, data[n : n + 1])
            w.run(seconds=0.02)
        if byte_by_byte and fin:
            more(client, stream_id, b"", fin=True)
    assert outcome(w, client) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OPENING, CLOSED_CRITICAL),
        (b"\2", CLOSED_CRITICAL),
        (b"\3", CLOSED_CRITICAL),
        (b"\x21abc", None),
        (b"\x40", None),
    ],
)
def test_a_reset_unidirectional_stream(world: Make, data: bytes, expected: int | None) -> None:
    w = world()
    client = connect(w)
    stream_id = open_uni(client, data)
    w.run(seconds=0.1)
    with contextlib.suppress(RuntimeError, ValueError):
        client.quic.reset_stream(stream_id, 0)
    assert outcome(w, client) == expected


def test_streams_of_unknown_types_do_not_use_up_the_limit(world: Make) -> None:
    w = world(limits=Limits(max_streams_uni=3))
    client = w.ready()
    for n in range(30):
        open_uni(client, varint(0x21 + 0x1F * n) + b"grease", fin=n % 2 == 0)
        w.run(seconds=0.3)
        assert client.terminated is None
    assert client.fetch("/bytes/1").status == 200
