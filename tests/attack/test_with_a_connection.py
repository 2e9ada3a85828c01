"""A malicious client with a connection: all that it can make grow is bounded, and excess closes the connection."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.events import StopSendingReceived, StreamReset

from tests.support.attacker import Memory, in_packets, packet, send, stream_frame, varint
from tests.support.engine_driver import World
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
KIB, MIB = 1024, 1024 * 1024
H3_EXCESSIVE_LOAD = 0x107
PING = b"\x01"
GET = bytes.fromhex("0000") + b"\xd1\xd7\x50\x01a\xc1"  # :method GET, :scheme https, :authority a, :path /
HEADERS = b"\x01" + varint(len(GET)) + GET


def test_windows_do_not_grow_with_the_highest_offset(world: Make) -> None:
    """Unmodified aioquic doubles a limit with the highest offset seen: seven bytes of payload, 72 MiB (#589)."""
    limits = Limits()
    w = world(limits=limits)
    client = w.ready()
    response = client.request("POST", "/count", body=b"", end=False)
    w.run(seconds=1)
    stream = client.quic._streams[response.stream_id]
    for _ in range(12):
        offset = min(stream.max_stream_data_remote, client.quic._remote_max_data) - 1
        send(client, stream_frame(response.stream_id, offset, b"x"), PING)
        w.run(seconds=0.5)
    assert stream.max_stream_data_remote <= limits.stream_window_bytes + 1000
    assert client.quic._remote_max_data <= limits.connection_window_bytes + 1000


def test_out_of_order_data_is_bounded_by_the_connection_window(world: Make) -> None:
    w = world()
    client = w.ready()
    with Memory(w) as memory:
        for number in range(100):
            send(client, stream_frame(4 * number, 200_000, b"x"), PING)
            if w.app.closed:
                break
        assert memory.grown() < 4 * MIB
    # Flow control of the connection: 5 x 200,000 fit in 1 MiB, the 6th is one too many.
    assert number <= 6
    assert w.app.closed[0].error_code == 0x03


def test_qpack_dynamic_table_is_refused(world: Make) -> None:
    """Unmodified aioquic: a 4 KiB entry, then a byte for each reference; 20 kB of HEADERS made 78 MB of fields."""
    w = world()
    client = w.ready()
    # Set Dynamic Table Capacity 4096, then insert "x-a: v..." (RFC 9204 sections 4.3.1 and 4.3.3).
    entry = b"\x3f\xe1\x1f" + b"\x43x-a" + b"\x7f\xbd\x1d" + b"v" * 3900
    send(client, stream_frame(6, 1, entry[:1200]), PING)
    w.run(lambda: bool(w.app.closed), seconds=5)
    assert w.app.closed[0].error_code == 0x201


def test_qpack_dynamic_references_are_refused(world: Make) -> None:
    w = world()
    client = w.ready()
    section = b"\x02\x00" + b"\x80" * 500
    send(client, stream_frame(0, 0, b"\x01" + varint(len(section)) + section, fin=True))
    w.run(lambda: bool(w.app.closed), seconds=5)
    assert w.app.closed[0].error_code == 0x200
    assert w.app.requests == []


def test_incomplete_header_section_is_not_buffered(world: Make) -> None:
    """Unmodified aioquic: 8 MiB of it take 2.7 s and 8 MiB."""
    w = world()
    client = w.ready()
    stream_id = client.quic.get_next_available_stream_id()
    client.quic.send_stream_data(stream_id, b"\x01" + varint(64 * MIB) + bytes(4 * MIB))
    with Memory(w) as memory:
        w.run(seconds=5)
        assert memory.grown() < 3 * MIB
    assert w.app.requests == []
    received = w.counters()["datagrams_received"]
    assert received < 700


def test_field_sections_are_bounded_by_their_decoded_size(world: Make) -> None:
    """Two bytes name "content-security-policy: script-src 'none'; ..." of the static table: 108 bytes, counted."""
    w = world()
    client = w.ready()
    section = GET + b"\xff\x16" * 6000
    client.quic.send_stream_data(0, b"\x01" + varint(len(section)) + section, end_stream=True)
    client.quic.get_next_available_stream_id()
    w.run(seconds=2)
    assert w.app.requests == []


def test_rapid_reset_closes_the_connection(world: Make) -> None:
    """CVE-2023-44487 in HTTP/3: requests that are cancelled as soon as they are sent."""
    w = world(limits=Limits(max_glitches_per_s=50))
    client = w.ready()
    client.deaf = True
    for number in range(5000):
        stream_id = 4 * number
        # RESET_STREAM (19.4) and STOP_SENDING (19.5) right behind the request.
        reset = b"\x04" + varint(stream_id) + varint(0x10C) + varint(len(HEADERS))
        stop = b"\x05" + varint(stream_id) + varint(0x10C)
        w.inject(client.address, packet(client, stream_frame(stream_id, 0, HEADERS), reset, stop))
        if w.app.closed:
            break
        if number % 20 == 19:
            w.run(seconds=0.03)
    assert w.app.closed
    assert w.app.closed[0].error_code == H3_EXCESSIVE_LOAD
    assert number <= 100
    assert len(w.app.requests) <= 100
    assert w.counters()["glitches"] >= 50


def test_incomplete_request_times_out(world: Make) -> None:
    """Slowloris: a hundred streams with one byte each."""
    w = world(limits=Limits(request_timeout_s=5.0, idle_timeout_s=600.0))
    client = w.ready()
    for _ in range(100):
        stream_id = client.quic.get_next_available_stream_id()
        client.quic.send_stream_data(stream_id, HEADERS[:3])
    w.run(seconds=1)
    # Packets that keep the connection alive do not extend the request time-out.
    for _ in range(8):
        client.quic.send_ping(1)
        w.run(seconds=1)
    resets = {event.stream_id for event in client.events if isinstance(event, StreamReset | StopSendingReceived)}
    assert w.app.requests == []
    assert len(resets) == 100


def test_frame_on_the_last_stream_does_not_start_handlers(world: Make) -> None:
    w = world(limits=Limits(request_timeout_s=5.0, idle_timeout_s=600.0))
    client = w.ready()
    client.deaf = True
    send(client, stream_frame(396, 0, HEADERS, fin=True), PING)
    w.run(seconds=1)
    assert len(w.app.requests) == 1
    assert w.engine.connections()[0][2] <= 1


def test_exceeding_the_stream_limit_closes_the_connection(world: Make) -> None:
    w = world()
    client = w.ready()
    send(client, stream_frame(4 * 100, 0, HEADERS, fin=True))
    w.run(seconds=0.1)
    assert w.app.closed[0].error_code == 0x04


def test_body_is_not_read_from_disk_while_the_client_does_not_read(world: Make) -> None:
    """A hundred files of 4 MB for a client with closed windows: the bodies stay on disk."""
    w = world()
    client = w.ready(max_data=100_000, max_stream_data=1000)
    # The client never raises its limits.
    client.quic._write_connection_limits = lambda builder, space: None  # type: ignore[method-assign]
    client.quic._write_stream_limits = lambda builder, space, stream: None  # type: ignore[method-assign]
    with Memory(w) as memory:
        for _ in range(100):
            client.get("/file/4000000")
        w.run(seconds=20)
        assert len(w.app.requests) == 100
        assert memory.grown() < 8 * MIB


def test_writer_is_told_to_wait_above_send_high(world: Make) -> None:
    w = world()
    client = w.ready(max_data=50_000, max_stream_data=50_000)
    client.quic._write_connection_limits = lambda builder, space: None  # type: ignore[method-assign]
    client.quic._write_stream_limits = lambda builder, space, stream: None  # type: ignore[method-assign]
    client.get("/stream/3000000")
    w.run(seconds=5)
    left = w.app._feeding[w.app.requests[0].stream]
    written = 3_000_000 - left
    assert written <= 50_000 + Limits().send_high_bytes + 2 * 16_384
    assert w.app.writable == []


def test_retiring_an_unissued_id_is_a_protocol_violation(world: Make) -> None:
    """Unmodified aioquic: RETIRE_CONNECTION_ID for the next id issues another one, four hundred times in a packet."""
    w = world()
    client = w.ready()
    w.run(seconds=1)
    frames = (b"\x19" + varint(number) for number in range(1, 3000))
    for payload in in_packets(frames):
        send(client, payload)
        if w.app.closed:
            break
    w.run(seconds=0.1)
    assert w.app.closed
    assert w.app.closed[0].error_code == 0x0A


def test_retired_ids_do_not_accumulate(world: Make) -> None:
    w = world()
    client = w.ready()

    def change_ids(number: int) -> None:
        for _ in range(number):
            w.run(seconds=0.1)
            client.quic.change_connection_id()
            client.quic.send_ping(1)
        forget(w)

    change_ids(50)
    with Memory(w) as memory:
        change_ids(300)
        # Most of it is aioquic's memory on the client's side.
        assert memory.grown() < 160 * KIB
    assert client.fetch("/bytes/1").status == 200


def test_finished_requests_leave_no_memory(world: Make) -> None:
    w = world()
    client = w.ready()

    def requests(number: int) -> None:
        for n in range(number):
            if n % 3:
                client.fetch("/bytes/10")
            else:
                # Refused before a handler ran: another way to end.
                stream_id = client.quic.get_next_available_stream_id()
                client.quic.send_stream_data(stream_id, b"\x01\x03\x00\x00\xd1", end_stream=True)
        w.run(seconds=1)
        assert client.terminated is None
        forget(w)

    requests(30)
    with Memory(w) as memory:
        requests(300)
        assert memory.grown() < 96 * KIB


def forget(w: World) -> None:
    """Release what the test itself holds."""
    w.sent.clear()
    for kept in (w.app.requests, w.app.stream_closed, w.app.paths, w.app.bodies, w.app.closed, w.app.handshakes):
        kept.clear()
    for client in w._clients.values():
        client.received.clear()
        client.events.clear()
        client.responses.clear()


def test_path_challenges_are_answered_within_bounds(world: Make) -> None:
    w = world()
    client = w.ready()
    begun = sum(len(train.data) for train in w.sent)
    sent = 0
    for _ in range(50):
        datagram = packet(client, *(b"\x1a" + os.urandom(8) for _ in range(100)))
        sent += len(datagram)
        w.inject(client.address, datagram)
    w.run(seconds=2)
    assert sum(len(train.data) for train in w.sent) - begun < 2 * sent


@pytest.mark.parametrize("kind", ["ping", "max_data", "unknown h3 frames", "empty data frames"])
def test_flood_of_useless_frames_leaves_no_memory(world: Make, kind: str) -> None:
    w = world()
    client = w.ready()

    def flood() -> Iterator[bytes]:
        offset = 0
        for number in range(100):
            if kind == "ping":
                yield PING * 1000
            elif kind == "max_data":
                yield (b"\x10" + varint(1 << 40)) * 140
            else:
                data = (b"\x21\x00" if kind.startswith("unknown") else b"\x00\x00") * 500
                if not number:
                    data = HEADERS + data
                yield stream_frame(0, offset, data)
                offset += len(data)

    payloads = list(flood())
    for payload in payloads[:20]:
        send(client, payload)
    with Memory(w) as memory:
        for payload in payloads[20:]:
            send(client, payload)
        assert memory.grown() < 64 * KIB


def test_closed_connections_leave_no_memory(world: Make) -> None:
    w = world()

    def churn(number: int) -> None:
        for n in range(number):
            client = w.ready()
            client.fetch("/bytes/10")
            if n % 2:
                client.close()
            # The others never send again.
            w.run(seconds=0.05)
            w._clients.clear()
        w.run(seconds=60)
        forget(w)
        w.hooks.initials.clear()

    churn(10)
    with Memory(w) as memory:
        churn(50)
        assert w.engine.connections() == []
        assert memory.grown() < 64 * KIB


def test_idle_connection_costs_less_than_110_kib(world: Make) -> None:
    w = world()

    def open_some(number: int) -> None:
        for _ in range(number):
            client = w.ready()
            client.fetch("/bytes/10")
            # Only the server's memory is measured.
            w._clients.clear()
        forget(w)

    open_some(10)
    with Memory(w) as memory:
        open_some(40)
        assert len(w.engine.connections()) == 50
        assert memory.grown() / 40 < 110 * KIB


def test_oversized_control_frame_closes_the_connection(world: Make) -> None:
    w = world()
    client = w.ready()
    client.fetch("/bytes/1")
    # After the SETTINGS that aioquic has sent: MAX_PUSH_ID, a megabyte of it.
    control = client.quic._streams[2].sender
    send(client, stream_frame(2, control.highest_offset, b"\x0d" + varint(1 << 20) + bytes(1000)), PING)
    w.run(lambda: bool(w.app.closed), seconds=1)
    assert w.app.closed[0].error_code in (0x106, 0x107)


def test_closing_a_critical_stream_closes_the_connection(world: Make) -> None:
    w = world()
    client = w.ready()
    client.fetch("/bytes/1")
    control = client.quic._streams[2]
    send(client, stream_frame(2, control.sender.highest_offset, b"", fin=True))
    w.run(seconds=1)
    assert w.app.closed[0].error_code == 0x104


def test_announced_limits_are_the_enforced_limits(world: Make) -> None:
    """The transport parameters and SETTINGS that a client reads are the limits."""
    limits = Limits()
    w = world(limits=limits)
    client = w.ready()
    client.fetch("/bytes/1")
    quic = client.quic
    assert quic._remote_max_streams_bidi == limits.max_streams_bidi
    assert quic._remote_max_stream_data_bidi_remote == limits.stream_window_bytes
    assert quic._remote_max_data == limits.connection_window_bytes
    settings = client.http.received_settings  # type: ignore[union-attr]
    assert settings is not None
    assert settings.get(0x1, 0) == 0
    assert settings.get(0x7, 0) == 0
    assert settings[0x6] == limits.max_field_section_bytes


def test_varints_are_read_as_in_rfc_9000() -> None:
    """The helper that encodes the attacks follows RFC 9000 section 16."""
    for value in (0, 63, 64, 16_383, 16_384, 1 << 30, (1 << 62) - 1):
        assert Buffer(data=varint(value)).pull_uint_var() == value
