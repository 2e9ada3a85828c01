"""Every request gets exactly one response; a shared response is sent again for the same question."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.support.fake_engine import FakeEngine, request
from tests.support.site import Clock, always
from velocity_edge.http.requests import (
    BodyReceived,
    ConnectionClosed,
    Event,
    HandshakeCompleted,
    StreamClosed,
    StreamWritable,
)
from workers.body import BodyTooLarge
from workers.http import BodyCutShort, Request, Response, plain
from workers.pipeline import Handler, Middleware
from workers.serve.access_lines import clf_line, json_line
from workers.serve.access_log import AccessRule
from workers.serve.backlog import Backlog
from workers.serve.exchanges import Exchanges
from workers.serve.revision import Revision
from workers.serve.turns import STEP_NS, TURN_NS


class Stage:
    """An `Exchanges` over a fake engine, with one handler for everything."""

    def __init__(
        self,
        handler: Callable[[Request], Response | Awaitable[Response]],
        middleware: Sequence[Middleware] = (),
        **revision: Any,
    ) -> None:
        self.engine = FakeEngine()
        self.clock = Clock()
        self.tasks: list[asyncio.Task[None]] = []
        self.flushes = 0
        self.now_ns = 0
        self.progress = 0
        self.asked: list[Request] = []
        self.log = b""
        self.exchanges = Exchanges(
            self.engine,
            self._start,
            self._flush,
            send_high_bytes=100,
            write_log=self._write_log,
            clock=self.clock,
            now_ns=lambda: self.now_ns,
            progress=self._progress,
        )
        self.exchanges.use(Revision(1, always(self._ask(handler), *middleware), **revision))

    def _ask(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        def ask(request: Request) -> Any:
            self.asked.append(request)
            return handler(request)

        return ask

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.append(task)
        return task

    def _flush(self) -> None:
        self.flushes += 1

    def _progress(self) -> None:
        self.progress += 1

    def _write_log(self, lines: bytes) -> None:
        self.log += lines

    def handle(self, *events: Event) -> None:
        self.exchanges.handle(list(events))

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


def shared(request: Request) -> Response:
    return Response(200, ((b"n", b"1"),), b"hello", shared=True)


# --- shared responses ----------------------------------------------------------------------------------------------


def test_a_shared_response_is_sent_again_until_the_second_ends() -> None:
    stage = Stage(shared)
    stage.handle(request(1), request(2), request(3))
    assert len(stage.asked) == 1
    assert {answer.body for answer in stage.engine.answers.values()} == {b"hello"}
    stage.clock.now_s += 1
    stage.handle(request(4))
    assert len(stage.asked) == 2


@pytest.mark.parametrize(
    "other",
    [
        request(2, b"/other"),
        request(2, authority=b"elsewhere"),
        request(2, method=b"HEAD"),
        request(2, method=b"POST"),
        request(2, early=True),
        request(2, headers=[(b"range", b"bytes=0-1")]),
        request(2, headers=[(b"if-none-match", b'"x"')]),
        request(2, headers=[(b"if-match", b'"x"')]),
        request(2, headers=[(b"if-modified-since", b"x")]),
        request(2, headers=[(b"accept-encoding", b"br")]),
        request(2, headers=[(b"host", b"localhost")]),
        request(2, fin=False),
    ],
)
def test_a_different_request_calls_the_handler(other: Any) -> None:
    stage = Stage(shared)
    stage.handle(request(1, headers=[(b"user-agent", b"x")]), other)
    assert len(stage.asked) == 2


def test_a_response_to_a_range_or_a_precondition_is_not_shared() -> None:
    stage = Stage(shared)
    for number, headers in enumerate([[(b"range", b"x")], [(b"if-none-match", b"x")]]):
        stage.handle(request(number, headers=headers))
    stage.handle(request(7, method=b"HEAD"), request(8, fin=False))
    stage.handle(request(9))
    assert len(stage.asked) == 5


def test_a_response_that_is_not_shared_or_not_a_200_is_not_kept() -> None:
    stage = Stage(lambda request: Response(200, (), b"x"))
    stage.handle(request(1), request(2))
    assert len(stage.asked) == 2
    stage = Stage(lambda request: Response(404, (), b"x", shared=True))
    stage.handle(request(1), request(2))
    assert len(stage.asked) == 2


def test_a_new_revision_drops_shared_responses() -> None:
    stage = Stage(shared)
    stage.handle(request(1))
    stage.exchanges.use(Revision(2, always(lambda request: plain(204))))
    stage.handle(request(2))
    assert stage.engine.answers[2].status == 204


def test_shared_responses_are_bounded() -> None:
    stage = Stage(lambda request: Response(200, (), b"x" * 65_536, shared=True))
    for number in range(5000):
        stage.handle(request(number, b"/%d" % number))
        assert len(stage.exchanges._shared) <= 4096
        assert stage.exchanges._shared._bytes <= 32 * 1024 * 1024


class Authorization(Middleware):
    """Answers 401 to requests without the right field."""

    def wrap(self, handler: Handler) -> Handler:
        return lambda request: handler(request) if request.header(b"authorization") == b"right" else plain(401)


class Counting(Middleware):
    """Changes nothing."""

    same_for_all = True

    def __init__(self) -> None:
        self.calls = 0

    def wrap(self, handler: Handler) -> Handler:
        def handle(request: Request) -> Response | Awaitable[Response]:
            self.calls += 1
            return handler(request)

        return handle


def test_a_shared_response_does_not_bypass_authorization() -> None:
    stage = Stage(shared, [Authorization()])
    stage.handle(request(1, headers=[(b"authorization", b"right")]), request(2))
    assert [stage.engine.answers[stream].status for stream in (1, 2)] == [200, 401]
    assert len(stage.exchanges._shared) == 0


def test_one_middleware_that_does_not_declare_it_prevents_sharing() -> None:
    stage = Stage(shared, [Counting(), Authorization(), Counting()])
    stage.handle(request(1, headers=[(b"authorization", b"right")]), request(2))
    assert [stage.engine.answers[stream].status for stream in (1, 2)] == [200, 401]


def test_middleware_that_is_the_same_for_all_is_skipped_for_a_shared_response() -> None:
    counting = Counting()
    stage = Stage(shared, [counting])
    stage.handle(request(1), request(2), request(3))
    assert (counting.calls, len(stage.engine.answers)) == (1, 3)


# --- requests and failures -------------------------------------------------------------------------------------------


def test_authority_and_host_must_agree_and_one_must_be_there() -> None:
    stage = Stage(lambda request: plain(200, request.host.decode()))
    stage.handle(
        request(1, headers=[(b"host", b"localhost")]),
        request(2, headers=[(b"host", b"evil")]),
        request(3, authority=b"", headers=[(b"host", b"Named:1")]),
        request(4, authority=b""),
    )
    answers = stage.engine.answers
    assert [answers[n].status for n in (1, 2, 3, 4)] == [200, 400, 200, 400]
    assert answers[3].body == b"named\n"


def test_an_exception_is_a_500_with_the_number_of_its_log_line(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request) -> Response:
        raise KeyError("oops")

    stage = Stage(fail)
    stage.handle(request(1))
    answer = stage.engine.answers[1]
    assert answer.status == 500
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.args
    assert str(record.args[0]).encode() in answer.body  # type: ignore[index]
    assert b"oops" not in answer.body


def test_without_a_revision_there_is_a_503() -> None:
    stage = Stage(shared)
    stage.exchanges.use(None)
    stage.handle(request(1))
    assert stage.engine.answers[1].status == 503


def test_a_response_to_a_closed_stream_is_not_an_error() -> None:
    stage = Stage(shared)
    stage.engine.gone.add(1)
    stage.handle(request(1))
    assert len(stage.exchanges._shared) == 0


async def test_a_coroutine_answers_later_and_its_exception_is_a_500() -> None:
    async def later(request: Request) -> Response:
        await asyncio.sleep(0)
        if request.path == b"/bad":
            raise RuntimeError
        return plain(200)

    stage = Stage(later)
    stage.handle(request(1), request(2, b"/bad"))
    assert stage.engine.answers == {}
    await stage.settle()
    assert (stage.engine.answers[1].status, stage.engine.answers[2].status) == (200, 500)
    assert stage.flushes
    assert stage.exchanges.running == 0


async def test_a_closed_stream_cancels_the_handler() -> None:
    cancelled = asyncio.Event()

    async def wait(request: Request) -> Response:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return plain(200)

    stage = Stage(wait)
    stage.handle(request(1))
    await stage.settle()
    stage.handle(StreamClosed(1, False, 0x10C))
    await stage.settle()
    assert cancelled.is_set()
    assert stage.exchanges.running == 0
    assert stage.engine.answers == {}


async def test_a_replaced_revision_is_released_after_its_last_request() -> None:
    going = asyncio.Event()

    async def wait(request: Request) -> Response:
        await going.wait()
        return plain(200)

    released: list[int] = []
    stage = Stage(wait, release=lambda: released.append(1))
    stage.handle(request(1), request(2), request(3))
    stage.handle(StreamClosed(3, False, 0))  # its task is cancelled before it has begun
    await stage.settle()
    stage.exchanges.use(Revision(2, always(lambda request: plain(204))))
    stage.handle(StreamClosed(2, False, 0))
    await stage.settle()
    assert released == []
    going.set()
    await stage.settle()
    assert (released, stage.engine.answers[1].status) == ([1], 200)


def test_a_replaced_revision_without_requests_is_released_at_once() -> None:
    released: list[int] = []
    stage = Stage(shared, release=lambda: released.append(1))
    stage.handle(request(1))
    stage.exchanges.use(Revision(2, always(shared)))
    assert released == [1]


# --- turns -----------------------------------------------------------------------------------------------------------


def slow(stage: Stage, cost_ns: int = TURN_NS // 4) -> Callable[[Request], Response]:
    """Return a handler of which four calls use up a turn."""

    def handle(request: Request) -> Response:
        stage.now_ns += cost_ns
        return plain(200)

    return handle


def slow_stage(cost_ns: int = TURN_NS // 4, **revision: Any) -> Stage:
    stage = Stage(lambda request: slow(stage, cost_ns)(request), **revision)
    return stage


async def test_requests_above_the_budget_of_a_turn_are_answered_in_later_ones() -> None:
    stage = slow_stage()
    stage.handle(*[request(number) for number in range(10)])
    counts = [len(stage.engine.answers)]
    while len(stage.engine.answers) < 10:
        await asyncio.sleep(0)
        counts.append(len(stage.engine.answers))
    assert counts == [4, 8, 10]
    assert list(stage.engine.answers) == list(range(10))
    assert stage.exchanges.counts["requests_deferred"] == 6
    assert stage.exchanges.running == 0
    assert stage.progress == 3  # once per turn
    assert stage.flushes == 2


async def test_a_handler_that_takes_longer_than_a_turn_gets_one_alone() -> None:
    stage = slow_stage(20 * TURN_NS)
    stage.handle(*[request(number) for number in range(3)])
    for answered in (1, 2, 3):
        assert len(stage.engine.answers) == answered
        await asyncio.sleep(0)


async def test_many_requests_of_one_connection_do_not_delay_another() -> None:
    stage = slow_stage()
    stage.handle(*[request(number) for number in range(100)])
    stage.handle(request(1000, connection=2))
    assert 1000 not in stage.engine.answers  # not before the waiting ones, at once
    await asyncio.sleep(0)
    assert 1000 in stage.engine.answers
    assert len(stage.engine.answers) == 8


async def test_waiting_requests_are_open_and_end_with_their_stream() -> None:
    stage = slow_stage()
    stage.handle(*[request(number) for number in range(10)])
    assert stage.exchanges.running == 6
    stage.handle(*[StreamClosed(number, False, 0x10C) for number in range(4, 9)])
    assert stage.exchanges.running == 1
    await stage.settle()
    assert list(stage.engine.answers) == [0, 1, 2, 3, 9]


async def test_a_body_that_arrives_while_its_request_waits_is_kept() -> None:
    stage = slow_stage()
    stage.handle(*[request(number) for number in range(4)])

    async def echo(request: Request) -> Response:
        return Response(200, (), await request.body.read(100))

    stage.exchanges.use(Revision(2, always(echo)))
    stage.handle(request(9, method=b"POST", fin=False), BodyReceived(9, b"abc", False))
    stage.now_ns += TURN_NS
    stage.handle(request(10, method=b"POST", fin=False), BodyReceived(10, b"def", False))
    stage.handle(BodyReceived(10, b"g", True), BodyReceived(9, b"d", True))
    await stage.settle()
    assert (stage.engine.answers[9].body, stage.engine.answers[10].body) == (b"abcd", b"defg")
    assert stage.exchanges.running == 0


async def test_the_access_log_has_the_time_that_a_request_waited() -> None:
    stage = slow_stage(access=AccessRule(json_line))
    stage.handle(*[request(number) for number in range(5)])
    stage.clock.now_s += 0.5
    await stage.settle()
    stage.exchanges.access_log.flush()
    assert [orjson.loads(line)["duration_ms"] for line in stage.log.splitlines()] == [0.0] * 4 + [500.0]


async def test_a_request_without_space_to_wait_gets_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = slow_stage()
    monkeypatch.setattr(stage.exchanges._turns, "backlog", Backlog(8192))
    stage.handle(*[request(number) for number in range(100)])
    shed = {number: answer for number, answer in stage.engine.answers.items() if answer.status == 503}
    assert len(shed) == stage.exchanges.counts["requests_shed"] > 80
    assert {answer.header(b"retry-after") for answer in shed.values()} == {b"1"}
    stage.handle(request(200, method=b"POST", fin=False), BodyReceived(200, b"x" * 1000, True))
    assert stage.engine.answers[200].status == 503
    await stage.settle()
    assert len(stage.engine.answers) == 101
    assert stage.exchanges.running == 0


async def test_the_budget_of_a_turn_covers_bodies_in_chunks() -> None:
    """An acknowledgement may resume every stream of a connection: no iteration of the loop runs all of them."""
    produced: list[int] = []
    number_of = 300

    async def chunks(number: int) -> AsyncIterator[bytes]:
        for _ in range(3):
            produced.append(number)
            yield b"x" * 200  # above the high-water mark: it waits after each

    stage = Stage(lambda request: Response(200, (), chunks(int(request.path[1:]))))
    stage.handle(*[request(number, b"/%d" % number) for number in range(number_of)])
    most = 0
    for _ in range(4):
        for _ in range(50):
            before = len(produced)
            await asyncio.sleep(0)
            most = max(most, len(produced) - before)
        for number in range(number_of):
            stage.engine.buffered[number] = 0
        stage.handle(*[StreamWritable(number) for number in range(number_of)])
    assert len(produced) == 3 * number_of
    assert most <= TURN_NS // STEP_NS
    await asyncio.sleep(0)
    assert all(answer.fin for answer in stage.engine.answers.values())
    assert stage.exchanges.running == 0


async def test_an_endless_body_yields_to_others() -> None:
    produced = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(1000):
            stage.now_ns += TURN_NS // 4
            produced += 1
            yield b""  # never above any mark

    stage = Stage(lambda request: Response(200, (), chunks()))
    stage.handle(request(1))
    for turn in range(20):
        await asyncio.sleep(0)
        assert produced <= 4 * (turn + 1)
    assert produced >= 8


# --- bodies in -------------------------------------------------------------------------------------------------------


async def test_a_body_is_credited_as_it_is_read() -> None:
    going = asyncio.Event()

    async def echo(request: Request) -> Response:
        await going.wait()
        data = await request.body.read(100)
        return Response(200, (), data)

    stage = Stage(echo)
    stage.handle(request(1, method=b"POST", fin=False), BodyReceived(1, b"abc", False))
    await stage.settle()
    assert stage.engine.credited == {}
    going.set()
    await stage.settle()
    assert stage.engine.credited == {1: 3}
    stage.handle(BodyReceived(1, b"def", True))
    await stage.settle()
    assert stage.engine.answers[1].body == b"abcdef"
    assert stage.engine.credited == {1: 6}
    assert stage.exchanges.running == 0


async def test_a_body_above_the_bound_raises_in_the_handler() -> None:
    async def small(request: Request) -> Response:
        try:
            await request.body.read(5)
        except BodyTooLarge:
            return plain(413)
        return plain(200)

    stage = Stage(small)
    stage.handle(request(1, method=b"POST", fin=False), BodyReceived(1, b"123456", False))
    await stage.settle()
    assert stage.engine.answers[1].status == 413


def test_an_unread_body_is_discarded_up_to_a_bound_and_then_reset() -> None:
    stage = Stage(lambda request: plain(405))
    stage.handle(request(1, method=b"POST", fin=False))
    assert stage.engine.answers[1].status == 405
    for _ in range(16):
        stage.handle(BodyReceived(1, b"x" * 1024 * 1024, False))
    assert stage.engine.credited == {1: 16 * 1024 * 1024}
    assert stage.engine.resets == {}
    stage.handle(BodyReceived(1, b"x", False))
    assert stage.engine.resets == {1: 0x100}
    stage.handle(BodyReceived(1, b"late", False))
    assert stage.exchanges.running == 0


def test_a_short_unread_body_is_credited_without_a_reset() -> None:
    stage = Stage(lambda request: plain(405))
    stage.handle(request(1, method=b"POST", fin=False), BodyReceived(1, b"abc", True))
    assert stage.engine.credited == {1: 3}
    assert stage.engine.resets == {}
    assert stage.exchanges.running == 0


# --- bodies out ------------------------------------------------------------------------------------------------------


async def test_a_streamed_body_is_paused_for_a_slow_client() -> None:
    produced = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(10):
            produced += 1
            yield b"x" * 60

    stage = Stage(lambda request: Response(200, (), chunks()))
    stage.handle(request(1))
    await stage.settle()
    assert produced == 2  # 120 bytes are above the high-water mark of 100
    for _ in range(10):
        stage.engine.buffered[1] = 0
        stage.handle(StreamWritable(1))
        await stage.settle()
    answer = stage.engine.answers[1]
    assert (answer.body, answer.fin) == (b"x" * 600, True)
    assert stage.exchanges.running == 0


async def test_a_body_that_fails_midway_is_reset_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"begin"
        raise OSError("disk")

    stage = Stage(lambda request: Response(200, (), chunks()))
    stage.handle(request(1))
    await stage.settle()
    assert stage.engine.resets == {1: 0x102}
    assert not stage.engine.answers[1].fin
    assert "disk" in caplog.text


async def test_a_body_that_is_cut_short_is_reset_and_logged_once_per_second(caplog: pytest.LogCaptureFixture) -> None:
    """Regression: each request for ranges of a truncated file left a traceback in the log."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"begin"
        raise BodyCutShort("the file became shorter while it was sent")

    stage = Stage(lambda request: Response(200, (), chunks()))
    stage.handle(*[request(number) for number in range(50)])
    await stage.settle()
    assert stage.engine.resets == dict.fromkeys(range(50), 0x102)
    assert stage.exchanges.counts["bodies_cut_short"] == 50
    (record,) = [record for record in caplog.records if record.name == "workers.serve.failures"]
    assert record.exc_info is None
    assert record.levelname == "WARNING"
    assert stage.exchanges.running == 0


async def test_a_closed_stream_ends_a_paused_body() -> None:
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 200
        finally:
            closed.set()

    stage = Stage(lambda request: Response(200, (), chunks()))
    stage.handle(request(1))
    await stage.settle()
    stage.handle(StreamClosed(1, False, 0))
    await stage.settle()
    assert stage.tasks[0].done()
    assert stage.exchanges.running == 0


# --- connections and the log ---------------------------------------------------------------------------------------


def handshake(connection: int) -> HandshakeCompleted:
    return HandshakeCompleted(connection, (b"\xc0\0\2\1", 999), "h3", 0x11EC, 0x1301, 0x403, "", False, False, 1)


def closed(connection: int) -> ConnectionClosed:
    return ConnectionClosed(connection, 0x100, True, True, "", True)


def test_established_connections_are_counted() -> None:
    stage = Stage(shared)
    stage.handle(handshake(1), handshake(2), closed(1), closed(9))
    assert len(stage.exchanges.connections) == 1
    assert 2 in stage.exchanges.connections


def test_the_access_log_has_each_request_once_shared_or_not() -> None:
    stage = Stage(shared, access=AccessRule(json_line))
    stage.handle(handshake(1), request(1, b"/a?b", [(b"user-agent", b'cu"rl\n')]), request(2, b"/a?b"))
    assert stage.log == b""
    stage.exchanges.access_log.flush()
    lines = [orjson.loads(line) for line in stage.log.splitlines()]
    assert [(line["target"], line["status"], line["bytes"], line["peer"]) for line in lines] == [
        ("/a?b", 200, 5, "192.0.2.1")
    ] * 2
    assert lines[0]["agent"] == 'cu"rl\n'
    stage.handle(*[request(number) for number in range(3, 303)])
    assert stage.log.count(b"\n") >= 256  # not kept until the second ends


def test_the_common_log_format_escapes_data_of_the_client() -> None:
    stage = Stage(shared, access=AccessRule(clf_line))
    stage.handle(handshake(1), request(1, b'/"\\\n', [(b"user-agent", b'" 200 1 "\xff')]))
    stage.exchanges.access_log.flush()
    assert stage.log == (
        b'192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] "GET /\\x22\\x5C\\x0A HTTP/3" 200 5 "-" "\\x22 200 1 \\x22\\xFF"\n'
    )


# --- fields above the limit, and 100 (Continue) ----------------------------------------------------------------------


def test_fields_above_the_limit_get_a_431_without_a_handler() -> None:
    stage = Stage(shared, access=AccessRule(json_line))
    stage.handle(request(1))
    stage.handle(replace(request(2, b"", authority=b""), fields_too_large=True))
    stage.handle(replace(request(3, b"", authority=b"", method=b"POST", fin=False), fields_too_large=True))
    assert [stage.engine.answers[stream].status for stream in (1, 2, 3)] == [200, 431, 431]
    assert stage.engine.answers[2].body == b"Request Header Fields Too Large\n"
    assert len(stage.asked) == 1
    stage.handle(BodyReceived(3, b"x" * 10, True))
    assert (stage.engine.credited, stage.exchanges.running) == ({3: 10}, 0)
    stage.exchanges.access_log.flush()
    assert [orjson.loads(line)["status"] for line in stage.log.splitlines()] == [200, 431, 431]


EXPECT = [(b"expect", b"100-Continue")]


async def test_a_client_that_expects_100_gets_it_when_the_body_is_read() -> None:
    async def read(request: Request) -> Response:
        await asyncio.sleep(0)
        return plain(200, (await request.body.read(100)).decode())

    stage = Stage(read)
    stage.handle(request(1, method=b"POST", headers=EXPECT, fin=False))
    assert stage.engine.interim == {}
    await stage.settle()
    assert stage.engine.interim == {1: [100]}
    assert stage.flushes
    stage.handle(BodyReceived(1, b"he", False))
    await stage.settle()
    stage.handle(BodyReceived(1, b"llo", True))
    await stage.settle()
    assert stage.engine.answers[1].body == b"hello\n"
    assert stage.engine.interim == {1: [100]}


@pytest.mark.parametrize("headers", [[], [(b"expect", b"something-else")]])
async def test_a_client_that_does_not_expect_100_gets_none(headers: list[tuple[bytes, bytes]]) -> None:
    async def read(request: Request) -> Response:
        return plain(200, (await request.body.read(100)).decode())

    stage = Stage(read)
    stage.handle(request(1, method=b"POST", headers=headers, fin=False))
    await stage.settle()
    stage.handle(BodyReceived(1, b"x", True))
    await stage.settle()
    assert (stage.engine.interim, stage.engine.answers[1].status) == ({}, 200)


async def test_a_body_that_arrived_already_gets_no_100() -> None:
    async def read(request: Request) -> Response:
        await asyncio.sleep(0)
        return plain(200, (await request.body.read(100)).decode())

    stage = Stage(read)
    stage.handle(request(1, method=b"POST", headers=EXPECT, fin=False), BodyReceived(1, b"x", False))
    await stage.settle()
    stage.handle(BodyReceived(1, b"y", True), request(2, method=b"POST", headers=EXPECT))
    await stage.settle()
    assert stage.engine.interim == {}
    assert [stage.engine.answers[stream].status for stream in (1, 2)] == [200, 200]


def test_a_client_that_expects_100_gets_a_final_response_at_once() -> None:
    stage = Stage(lambda request: plain(405))
    stage.handle(request(1, method=b"POST", headers=EXPECT, fin=False))
    assert (stage.engine.interim, stage.engine.answers[1].status) == ({}, 405)


# --- closes ----------------------------------------------------------------------------------------------------------


def close_of(code: int, *, application: bool = True, by_peer: bool = False, reason: str = "") -> ConnectionClosed:
    return ConnectionClosed(1, code, application, by_peer, reason, True)


@pytest.mark.parametrize(
    ("event", "counter"),
    [
        (close_of(0x108), "closed_h3_id_error"),
        (close_of(0x202), "closed_qpack_decoder_stream_error"),
        (close_of(0x0A, application=False), "closed_protocol_violation"),
        (close_of(0x128, application=False), "closed_crypto_error"),
        (close_of(0x108, application=False), "closed_crypto_error"),
        (close_of(0xDEADBEEF), "closed_other"),
        (close_of(0x99, application=False), "closed_other"),
        (close_of(0x01), "closed_other"),
        (close_of(0x100), None),
        (close_of(0, application=False), None),
        (close_of(0x108, by_peer=True), None),
    ],
)
def test_a_connection_closed_with_an_error_is_counted_by_its_name(event: ConnectionClosed, counter: str | None) -> None:
    stage = Stage(shared)
    stage.handle(event)
    assert {name: n for name, n in stage.exchanges.connections.closes.items() if n} == ({counter: 1} if counter else {})


def test_the_reason_of_a_close_is_escaped_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Stage(shared).handle(close_of(0x108, reason="no\x1b[2J\nsuch \u202e stream"), close_of(0x100))
    [line] = [record.getMessage() for record in caplog.records]
    assert line == r"closed a connection: h3_id_error (0x108): 'no\x1b[2J\nsuch \u202e stream'"


# --- one record for each request -------------------------------------------------------------------------------------


def record(stage: Stage) -> list[tuple[int, str]]:
    stage.exchanges.access_log.flush()
    return [(line["status"], line["id"]) for line in map(orjson.loads, stage.log.splitlines())]


async def test_a_request_whose_client_leaves_is_recorded_once() -> None:
    async def wait(_: Request) -> Response:
        await asyncio.sleep(3600)
        raise AssertionError

    stage = Stage(wait, access=AccessRule(json_line))
    stage.handle(request(1))
    await asyncio.sleep(0)
    stage.handle(StreamClosed(1, False, 0))
    stage.handle(request(2), StreamClosed(2, False, 0))  # before the handler has begun
    await asyncio.gather(*stage.tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert [status for status, _ in record(stage)] == [499, 499]


def test_handlers_see_the_id_that_is_logged() -> None:
    stage = Stage(shared, access=AccessRule(json_line), trust_request_id=True)
    stage.handle(request(1, b"/", [(b"x-request-id", b"mine")]), request(2, b"/other"))
    assert stage.asked[0].id == b"mine"
    assert [ident for _, ident in record(stage)] == ["mine", stage.asked[1].id.decode()]
