"""Features of the native engine alone, and what can only go wrong in C: handles, re-entry, buffers, lifetimes."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import weakref
from typing import Any

import pytest
from aioquic.quic.connection import QuicConnection

from tests.support.engine_driver import FileRange, World, pattern
from velocity_edge.http.requests import EventKind, RequestReceived, StreamClosed
from velocity_edge.quic.datagrams import EngineSettings, Train
from velocity_edge.quic.limits import Limits
from velocity_edge.tls.transport import Level
from velocity_edge.wire.counters import COUNTERS, GAUGES

native = pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")


class _NoStreams(QuicConnection):
    """A client that allows no unidirectional stream."""

    def _serialize_transport_parameters(self) -> bytes:
        self._local_max_streams_uni.value = 0
        return super()._serialize_transport_parameters()


PEER = (b"\xc6\x33\x64\x07", 5555)


# --- features of this engine alone ------------------------------------------------------------------------------------


def test_packet_size_grows_to_the_path_mtu() -> None:
    w = World("native")
    assert len(w.ready().fetch("/bytes/3000000").body) == 3_000_000
    assert w.sent[0].segment_size <= 1200
    assert max(train.segment_size for train in w.sent) > 1400
    w.close()


def test_few_packets_are_lost_to_path_mtu_probes() -> None:
    w = World("native")
    cross = w._to_client
    w._to_client = lambda address, datagram: cross(address, datagram) if len(datagram) <= 1300 else None  # type: ignore[method-assign]
    client = w.ready()
    response = client.fetch("/bytes/3000000")
    assert bytes(response.body) == pattern(3_000_000)
    lost = sum(1 for train in w.sent if train.segment_size > 1300)
    assert 0 < lost < 20


def test_packets_are_ect_0() -> None:
    w = World("native")
    w.ready().fetch("/bytes/100000")
    assert {train.tos for train in w.sent} >= {2}  # ECT(0)


@pytest.mark.parametrize("algorithm", ["cubic", "reno", "bbr"])
def test_each_congestion_control_completes_a_transfer_despite_loss(algorithm: str) -> None:
    w = World("native", loss=0.02, seed=4, congestion_control=algorithm)
    assert bytes(w.ready().fetch("/bytes/1000000").body) == pattern(1_000_000)
    w.close()


def test_unknown_congestion_control_is_refused() -> None:
    with pytest.raises(ValueError, match="vegas"):
        native.NativeEngine(EngineSettings(7, 1, Limits(), congestion_control="vegas"), object())


def test_client_key_update_during_a_transfer() -> None:
    w = World("native")
    client = w.ready()
    w.run(seconds=1)  # the handshake is confirmed on both sides
    response = client.get("/file/3000000")
    w.run(lambda: len(response.body) > 500_000)
    client.quic.request_key_update()
    w.run(lambda: response.over)
    assert bytes(response.body) == pattern(3_000_000)
    w.close()


def test_client_migration_succeeds_and_is_counted() -> None:
    w = World("native")
    client = w.ready()
    w.run(seconds=1)
    response = client.get("/file/3000000")
    w.run(lambda: len(response.body) > 500_000)
    w.move(client.address, (b"\xc0\x00\x02\xfe", 4711))
    w.run(lambda: response.over)
    assert bytes(response.body) == pattern(3_000_000)
    assert w.counters()["migrations"] == 1
    w.close()


# --- the boundary between C and Python -----------------------------------------------------------------------------


def test_counters_have_the_names_of_counters_py() -> None:
    count = World("native").counters()
    assert set(COUNTERS) <= set(count)
    assert set(count) - set(COUNTERS) <= set(GAUGES)


def test_events_are_instances_of_the_python_classes() -> None:
    w = World("native")
    w.ready().fetch("/echo", method="POST", body=b"x")
    w.run(seconds=1)
    [request] = w.app.requests
    assert type(request) is RequestReceived
    assert request.kind is EventKind.REQUEST_RECEIVED
    assert (request.method, request.scheme, request.path, request.fin) == (b"POST", b"https", b"/echo", False)
    assert request == RequestReceived(**{name: getattr(request, name) for name in request.__slots__})
    assert gc.is_tracked(request)
    [closed] = w.app.stream_closed
    assert closed == StreamClosed(request.stream, complete=True, error_code=0x100)


def test_common_field_names_are_shared_between_requests() -> None:
    w = World("native")
    client = w.ready()
    for _ in range(2):
        client.fetch("/x", headers=[(b"user-agent", b"a"), (b"x-own", b"b")])
    first, second = (dict(request.headers) for request in w.app.requests)
    assert first == second == {b"user-agent": b"a", b"x-own": b"b"}
    assert next(name for name in first if name == b"user-agent") is next(n for n in second if n == b"user-agent")


def test_handles_are_never_reused() -> None:
    w = World("native")
    client = w.ready()
    for _ in range(50):
        client.fetch("/bytes/1")
        w.run(seconds=0.2)
    streams = [request.stream for request in w.app.requests]
    assert len(set(streams)) == 50
    for stream in streams:
        assert w.engine.respond(stream, 200, [], b"late") is False
        assert w.engine.write(stream, b"late", fin=True) == -1
        w.engine.credit(stream, 10)
        w.engine.reset(stream, 0x10C)
    w.engine.close(streams[0] << 8, 0x100)
    w.engine.goaway(12345, final=True)
    assert client.fetch("/bytes/1").status == 200
    w.close()


def test_calls_from_an_upcall_raise() -> None:
    w = World("native")
    refused = []

    def admit(initial: Any) -> Any:
        for call in (
            lambda: w.engine.expire(w.now_ns),
            lambda: w.engine.receive(w._batch, w.now_ns),
            lambda: w.engine.close(1, 0),
            lambda: w._batch.clear(),
            lambda: w._batch.append(Train(b"x", 1, PEER, PEER, 0)),
        ):
            with pytest.raises(RuntimeError, match=r"in use|from one of its upcalls"):
                call()
            refused.append(call)
        return w.hooks.admission.admit(initial, w.now_ns)

    w.hooks.admit_with = admit
    w.ready()
    assert len(refused) == 5
    assert w.counters()["upcall_errors"] == 0


def test_keyboard_interrupt_in_an_upcall_is_raised_to_the_caller() -> None:
    def interrupt(_: Any) -> Any:
        raise KeyboardInterrupt

    w = World("native")
    w.hooks.admit_with = interrupt
    w.connect()
    with pytest.raises(KeyboardInterrupt):
        w.run(seconds=1)
    w.hooks.admit_with = None
    assert w.ready().fetch("/bytes/1").status == 200
    w.close()


def test_failing_upcall_is_logged_once_and_counted_each_time(caplog: pytest.LogCaptureFixture) -> None:
    w = World("native")
    w.hooks.handshake_with = lambda transport: 1 // 0  # type: ignore[return-value]
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            client = w.connect()
            w.run(lambda client=client: client.terminated is not None)
            assert client.terminated.error_code == 1  # INTERNAL_ERROR
    assert w.counters()["upcall_errors"] == 3
    assert [record.name for record in caplog.records] == ["velocity_edge.quic.native"]
    assert "ZeroDivisionError" in caplog.text
    w.close()


def test_error_caused_by_the_peer_is_not_an_upcall_error(caplog: pytest.LogCaptureFixture) -> None:
    """A client without streams for HTTP/3 makes install_key() raise. A peer must not cause tracebacks in the log."""
    w = World("native")
    client = w.connect(make=_NoStreams)
    w.run(lambda: client.terminated is not None)
    # APPLICATION_ERROR, which replaces H3_GENERAL_PROTOCOL_ERROR in an Initial packet (RFC 9000 section 10.2.3).
    assert client.terminated.error_code == 0x0C
    assert w.app.closed[0].error_code == 0x101
    assert w.counters()["upcall_errors"] == 0
    assert not caplog.records
    w.close()


def test_transport_works_only_inside_feed() -> None:
    w = World("native")
    transports: list[Any] = []

    def handshake(transport: Any) -> Any:
        transports.append(transport)
        with pytest.raises(RuntimeError, match="inside feed"):
            transport.local_parameters()
        from velocity_edge.tls.handshake import ServerHandshake

        return ServerHandshake(w.hooks.policy, transport, transport)

    w.hooks.handshake_with = handshake
    w.ready()
    w.run(lambda: bool(w.app.handshakes))
    for call in (
        lambda: transports[0].peer_parameters(b""),
        lambda: transports[0].install_key(True, Level.ONE_RTT, 0x1301, bytes(32)),
        lambda: transports[0].send_crypto(Level.ONE_RTT, b"x"),
    ):
        with pytest.raises(RuntimeError, match="inside feed"):
            call()


@pytest.mark.parametrize(
    ("misuse", "expected"),
    [
        (lambda t: t.local_parameters(), "needs the Handshake write key"),
        (lambda t: t.install_key(True, Level.ONE_RTT, 0x1301, bytes(32)), "is not expected now"),
        (lambda t: t.install_key(True, Level.ZERO_RTT, 0x1301, bytes(32)), "is not expected now"),
        (lambda t: t.install_key(True, Level.INITIAL, 0x1301, bytes(32)), "is not expected now"),
        (lambda t: t.install_key(True, Level.HANDSHAKE, 0x1301, bytes(31)), "unknown cipher suite"),
        (lambda t: t.install_key(True, Level.HANDSHAKE, 0x1399, bytes(32)), "unknown cipher suite"),
        (lambda t: [t.install_key(True, Level.HANDSHAKE, 0x1301, bytes(32)) for _ in "ab"], "is not expected now"),
        (lambda t: t.send_crypto(Level.ZERO_RTT, b"x"), "no CRYPTO"),
        (lambda t: t.send_crypto(9, b"x"), "no CRYPTO"),
        (lambda t: t.peer_parameters("x"), "bytes"),
    ],
)
def test_misuse_of_the_transport_raises_instead_of_aborting_in_ngtcp2(misuse: Any, expected: str) -> None:
    w = World("native")
    raised: list[str] = []

    class Misusing:
        done = False

        def __init__(self, transport: Any) -> None:
            self.transport = transport

        def feed(self, level: int, message: bytes) -> int:
            with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
                misuse(self.transport)
            raised.append(str(caught.value))
            return 40

    w.hooks.handshake_with = Misusing  # type: ignore[assignment]
    client = w.connect()
    w.run(lambda: client.terminated is not None)
    assert expected in raised[0]
    assert client.terminated.error_code == 0x128
    w.close()


def test_reference_cycle_of_engine_and_upcalls_is_collected() -> None:
    w = World("native")
    w.ready().get("/hang")
    w.run(seconds=0.1)
    w.app.file.close()
    hooks = weakref.ref(w.hooks)
    w.hooks.engine = w.engine  # type: ignore[attr-defined]  # a reference cycle through C
    del w
    gc.collect()
    assert hooks() is None


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda e, s: e.respond(s, 99, [], b""), ValueError),
        (lambda e, s: e.respond(s, 200, [(b"Upper", b"x")], b""), ValueError),
        (lambda e, s: e.respond(s, 200, [(b"x", b"a\r\nb")], b""), ValueError),
        (lambda e, s: e.respond(s, 200, [(b":status", b"200")], b""), ValueError),
        (lambda e, s: e.respond(s, 200, [("x", "y")], b""), TypeError),
        (lambda e, s: e.respond(s, 200, [], "text"), TypeError),
        (lambda e, s: e.respond(s, 200, [], FileRange(object(), 0, 1)), AttributeError),
        (lambda e, s: e.respond(s, 200, None), TypeError),
        (lambda e, s: e.respond(-1, 200, []), OverflowError),
        (lambda e, s: e.respond(s, 200, [], b"", nonsense=1), TypeError),
    ],
)
def test_invalid_response_raises_and_a_valid_one_can_follow(call: Any, error: Any) -> None:
    w = World("native")

    def handler(request: RequestReceived) -> None:
        with pytest.raises(error):
            call(w.engine, request.stream)
        assert w.engine.respond(request.stream, 500, [], b"sorry")
        assert not w.engine.respond(request.stream, 500, [], b"twice")

    w.app.handler = handler
    response = w.ready().fetch("/")
    assert (response.status, bytes(response.body)) == (500, b"sorry")


@pytest.mark.parametrize(
    "train",
    [
        Train(b"x" * 10, 0, PEER, PEER, 0),
        Train(b"x", 1, (b"", 0), PEER, 0),
        Train(b"x", 1, (b"12345", 1), PEER, 0),
        Train(b"x", 1, (b"1234", 70000), PEER, 0),
        Train(b"x", 1, PEER, PEER, 256),
        Train(b"x", 1, PEER, PEER, -1),
        Train(b"x", 1, PEER, PEER, 0, 256),
        Train(bytes(65537), 1200, PEER, PEER, 0),
    ],
)
def test_invalid_trains_are_refused(train: Train) -> None:
    batch = World("native").engine.batch()
    with pytest.raises(ValueError, match=r"train|address"):
        batch.append(train)
    assert len(batch) == 0


def test_batch_is_bounded_and_returns_its_trains_unchanged() -> None:
    batch = World("native").engine.batch()
    trains = []
    while len(trains) < 1000:
        train = Train(os.urandom(300), 100, PEER, (bytes(range(16)), 443) if len(trains) % 2 else PEER, 2, 46, 17)
        if not batch.append(train):
            break
        trains.append(train)
    assert list(batch) == trains
    assert 100 <= len(trains) == len(batch) <= 256


# --- buffers -------------------------------------------------------------------------------------------------------


def test_bytes_in_flight_are_bounded_and_return_to_zero() -> None:
    limits = Limits(max_unacked_bytes=300_000)
    w = World("native", limits=limits, delay_ms=200)
    client = w.ready()
    client.quic._configuration.max_data = 1 << 30
    responses = [client.get("/bytes/3000000"), client.get("/file/3000000"), client.get("/stream/3000000")]
    most = 0
    while not all(response.over for response in responses):
        assert w.run(seconds=0.1) or w.now_ns < 2 * 10**12
        most = max(most, w.engine.unacked_bytes)
        if w.now_ns > 1_600 * 10**9:
            break
    assert [len(response.body) for response in responses] == [3_000_000] * 3
    # One piece above the limit, because it is checked before a piece is taken.
    assert 200_000 < most <= limits.max_unacked_bytes + 256 * 1024
    w.run(seconds=2)
    assert w.engine.unacked_bytes == 0


def test_connections_get_less_room_above_the_limit_per_worker() -> None:
    limits = Limits(max_unacked_bytes=8 << 20, max_unacked_bytes_per_worker=1, send_high_bytes=64 * 1024)
    w = World("native", limits=limits, delay_ms=100)
    response = w.ready().get("/bytes/3000000")
    most = 0
    while not response.over and w.now_ns < 1_600 * 10**9:
        w.run(seconds=0.1)
        most = max(most, w.engine.unacked_bytes)
    assert len(response.body) == 3_000_000
    assert most <= 64 * 1024 + 256 * 1024


def test_file_is_released_after_reading_and_after_a_reset() -> None:
    class Held:
        def __init__(self) -> None:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115
            self.file.write(pattern(500_000))
            self.file.flush()
            self.fd = self.file.fileno()

    for abandon in (False, True):
        w = World("native")
        held = Held()
        gone = weakref.ref(held)
        w.app.handler = lambda request, w=w, held=held: w.engine.respond(  # type: ignore[misc]
            request.stream, 200, [], FileRange(held, 0, 500_000)
        )
        client = w.ready()
        response = client.get("/")
        w.run(lambda response=response: len(response.body) > 0)
        if abandon:
            client.quic.reset_stream(response.stream_id, 0x10C)
            client.quic.stop_stream(response.stream_id, 0x10C)
            w.run(seconds=2)
        else:
            w.run(lambda response=response: response.over)
            assert bytes(response.body) == pattern(500_000)
        w.app.handler = print
        del held
        gc.collect()
        assert gone() is None, abandon
        w.app.file.close()


def test_write_returns_minus_1_when_reading_the_data_closes_the_stream() -> None:
    w = World("native")
    client = w.ready()
    w.app.handler = lambda request: w.engine.respond(request.stream, 200, [], None, fin=False)
    client.get("/")
    w.run(lambda: bool(w.app.requests))
    [request] = w.app.requests

    def closing_data() -> Any:
        w.engine.close(request.connection, 0x100)
        w._after_engine()
        yield 1

    assert w.engine.write(request.stream, closing_data(), fin=False) == -1
    assert w.engine.connections() == []
