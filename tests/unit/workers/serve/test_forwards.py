"""Invariant: a request that the engine forwards ends in one answer and one line; its revision is in use until then."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

import orjson
import pytest

from tests.support.fake_engine import FakeEngine, request
from tests.support.fake_upstreams import Behind, FakeForwarding, settings
from tests.support.site import Clock, always
from velocity_edge.http.forwarded import TrustedProxies
from velocity_edge.http.requests import BodyReceived, Outcome, StreamClosed
from workers.http import Answer, HeadEdit, Request
from workers.pipeline import Handler, Middleware, then
from workers.proxy.fields import FieldRules
from workers.proxy.group import Group, GroupSettings
from workers.proxy.handler import ProxyHandler, RouteRules
from workers.proxy.retry import RetryRules
from workers.proxy.server import Server
from workers.serve.access_lines import json_line
from workers.serve.access_log import AccessRule
from workers.serve.exchanges import Exchanges
from workers.serve.revision import Revision

ONE, TWO = "http://10.0.0.1", "http://10.0.0.2"


class Stage:
    """`Exchanges` over a fake engine and its fake upstreams, with a proxy for everything."""

    def __init__(
        self,
        urls: Sequence[str] = (ONE, TWO),
        *middleware: Middleware,
        most: int = 1024,
        rules: RouteRules | None = None,
        **group: Any,
    ) -> None:
        self.engine, self.forwarding = FakeEngine(), FakeForwarding()
        self.behind = Behind(forwarding=self.forwarding)
        own = [settings(url, max_connections=most) for url in urls]
        self.servers = [Server(each, self.behind.context) for each in own]
        self.group = Group(GroupSettings(tuple((each, 1) for each in own), **group), self.servers, self.behind.context)
        self.handler = ProxyHandler(self.group, rules or RouteRules(), self.behind.context)
        self.log = b""
        self.released = 0
        self.exchanges = Exchanges(
            self.engine, self._start, lambda: None, send_high_bytes=100, write_log=self._write, clock=Clock()
        )
        self.exchanges.use_forwarding(self.forwarding)
        self.exchanges.connections.peers[1] = (socket.inet_aton("192.0.2.9"), 1)
        access = AccessRule(json_line)
        self.exchanges.use(Revision(1, always(self.handler, *middleware), access, release=self._release))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(coroutine)

    def _write(self, lines: bytes) -> None:
        self.log += lines

    def _release(self) -> None:
        self.released += 1

    def handle(self, *events: Any) -> None:
        self.exchanges.handle(list(events))

    def end(self, stream: int, outcome: Outcome = Outcome.COMPLETE, **more: Any) -> None:
        self.handle(self.forwarding.end(stream, outcome, **more))

    def lines(self) -> list[dict[str, Any]]:
        self.exchanges.access_log.flush()
        return [orjson.loads(line) for line in self.log.splitlines()]


def test_a_request_is_forwarded_with_its_fields_and_logged_when_it_ends() -> None:
    stage = Stage((ONE,))
    stage.handle(request(4, b"/a?b", [(b"accept", b"x")]))
    (_, stream, sent) = stage.forwarding.begun[0]
    assert (stream, sent.method, sent.target, sent.authority) == (4, b"GET", b"/a?b", b"10.0.0.1")
    assert (b"x-forwarded-for", b"192.0.2.9") in sent.add
    assert (stage.engine.answers, stage.lines(), stage.exchanges.running) == ({}, [], 1)
    stage.end(4, status=201)
    (line,) = stage.lines()
    assert (line["status"], line["upstream"]["address"], line["upstream"]["attempts"]) == (201, ONE, 1)
    assert (stage.engine.answers, stage.exchanges.running) == ({}, 0)
    assert stage.servers[0].running == 0


def test_another_server_is_tried_and_the_last_failure_is_answered() -> None:
    stage = Stage()
    stage.handle(request(4))
    stage.end(4, Outcome.CONNECT_FAILED)
    assert [pool for pool, _, _ in stage.forwarding.begun] == [1, 2]
    stage.end(4, Outcome.CONNECT_TIMEOUT)
    assert stage.engine.answers[4].status == 504
    (line,) = stage.lines()
    assert (line["status"], line["upstream"]["attempts"]) == (504, 2)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.CLOSED_EARLY, 502),
        (Outcome.RESPONSE_TIMEOUT, 504),
        (Outcome.INVALID, 502),
        (Outcome.REQUEST_TOO_LARGE, 413),
        (Outcome.REQUEST_TIMEOUT, 408),
    ],
)
def test_an_attempt_without_a_head_has_an_answer_of_the_node(outcome: Outcome, status: int) -> None:
    stage = Stage()
    stage.handle(request(4, method=b"POST", fin=False))
    stage.end(4, outcome, body_sent=True)
    assert stage.engine.answers[4].status == status
    assert len(stage.lines()) == 1
    stage.handle(StreamClosed(4, False, 0))
    assert (stage.exchanges.running, len(stage.lines())) == (0, 1)


def test_an_answer_to_head_has_no_body() -> None:
    stage = Stage((ONE,), retries=RetryRules(1))
    stage.handle(request(4, method=b"HEAD"))
    stage.end(4, Outcome.CONNECT_FAILED)
    assert (stage.engine.answers[4].status, stage.engine.answers[4].body) == (502, b"")


def test_a_response_that_was_cut_is_logged_with_its_status() -> None:
    stage = Stage((ONE,))
    stage.handle(request(4))
    stage.end(4, Outcome.TRUNCATED, status=200)
    assert (stage.engine.answers, stage.lines()[0]["status"]) == ({}, 200)


def test_a_client_that_goes_away_is_logged_once() -> None:
    stage = Stage((ONE,))
    stage.handle(request(4))
    stage.handle(stage.forwarding.end(4, Outcome.CLIENT_GONE), StreamClosed(4, False, 0))
    assert [line["status"] for line in stage.lines()] == [499]
    assert (stage.exchanges.running, stage.servers[0].running) == (0, 0)


def test_a_stream_that_is_gone_when_it_is_forwarded_is_logged_once() -> None:
    stage = Stage((ONE,))
    stage.forwarding.gone.add(4)
    stage.handle(request(4), StreamClosed(4, False, 0))
    assert len(stage.lines()) == 1
    assert (stage.exchanges.running, stage.servers[0].running) == (0, 0)


def test_a_waiting_request_goes_on_when_there_is_room_or_leaves_with_its_client() -> None:
    async def run() -> None:
        stage = Stage((ONE,), most=1)
        stage.handle(request(4), request(8), request(12))
        assert list(stage.forwarding.running) == [4]
        stage.handle(StreamClosed(8, False, 0))
        stage.end(4)
        assert list(stage.forwarding.running) == [12]
        stage.end(12)
        assert [line["status"] for line in stage.lines()] == [499, 200, 200]
        assert stage.group.waiting == 0
        stage.group.close()

    asyncio.run(run())


def test_body_bytes_that_came_early_are_handed_over_in_order() -> None:
    async def run() -> None:
        stage = Stage((ONE,), most=1)
        stage.handle(request(4), request(8, method=b"POST", fin=False))
        stage.handle(BodyReceived(8, b"one", False), BodyReceived(8, b"two", False))
        stage.end(4)
        stage.handle(BodyReceived(8, b"three", False), BodyReceived(8, b"", True))
        fed = stage.forwarding.fed[8]
        assert fed == [(b"one", False), (b"two", False), (b"three", False), (b"", True)]
        assert stage.engine.credited == {}  # the engine gives credit when it has sent them
        stage.group.close()

    asyncio.run(run())


def test_a_body_that_was_complete_early_is_ended() -> None:
    async def run() -> None:
        stage = Stage((ONE,), most=1)
        stage.handle(request(4), request(8, method=b"POST", fin=False), BodyReceived(8, b"", True))
        stage.end(4)
        assert stage.forwarding.fed[8] == [(b"", True)]
        stage.group.close()

    asyncio.run(run())


def test_a_revision_is_released_after_its_last_forwarded_request() -> None:
    stage = Stage()
    stage.handle(request(4), request(8))
    stage.exchanges.use(None)
    stage.end(4)
    stage.end(8, Outcome.CONNECT_FAILED)  # goes on with the same revision
    assert stage.released == 0
    stage.end(8)
    assert stage.released == 1


class Later(Middleware):
    """Waits before it calls the handler, as authentication does."""

    def wrap(self, handler: Handler) -> Handler:
        async def handle(request: Request) -> Answer:
            await asyncio.sleep(0)
            answer = handler(request)
            return await answer if isinstance(answer, Awaitable) else answer

        return handle


class Mark(Middleware):
    """Adds a field to the response."""

    def wrap(self, handler: Handler) -> Handler:
        return lambda request: then(handler(request), lambda answer: answer.edited(HeadEdit(add=((b"m", b"1"),))))


def test_middleware_may_wait_and_change_the_head() -> None:
    async def run() -> None:
        stage = Stage((ONE,), Later(), Mark())
        stage.handle(request(4))
        for _ in range(5):
            await asyncio.sleep(0)
        sent = stage.forwarding.running[4][1]
        assert (b"m", b"1") in sent.response_add
        stage.end(4)
        await asyncio.sleep(0)
        assert [line["status"] for line in stage.lines()] == [200]
        assert stage.exchanges.running == 0

    asyncio.run(run())


def test_an_answer_of_the_node_has_the_fields_of_the_middleware() -> None:
    stage = Stage((ONE,), Mark(), retries=RetryRules(1))
    stage.handle(request(4))
    stage.end(4, Outcome.CONNECT_FAILED)
    assert stage.engine.answers[4].header(b"m") == b"1"


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (request(4, b"/a/../b"), 400),
        (request(4, b"/the engine refuses it"), 400),
        (request(4, authority=b"a,b"), 400),
        (request(4, b"/\xff"), 400),
        (request(4, b"/a?\xc3\xa4"), 400),
        (request(4, method=b"TRACE"), 501),
        (request(4, method=b"CONNECT"), 501),
        (request(4, method=b"CONNECT", protocol=b"connect-udp", fin=False), 501),
        (request(4, method=b"POST", headers=[(b"content-length", b"11")], fin=False), 413),
    ],
)
def test_what_no_server_should_see_is_refused(event: Any, status: int) -> None:
    stage = Stage((ONE,), rules=RouteRules(FieldRules(), max_body_bytes=10))
    stage.handle(event)
    assert stage.engine.answers[4].status == status
    assert stage.forwarding.begun == []
    assert (stage.servers[0].running, stage.servers[0].failures, len(stage.lines())) == (0, 0, 1)


def test_a_forwarded_request_leaves_nothing_for_the_garbage_collector() -> None:
    """A cycle in what a request needs would be kept until a collection, which pauses the worker."""
    stage = Stage((ONE,))
    stage.handle(request(4))
    stage.end(4)
    gc.collect()
    gc.disable()
    try:
        stage.handle(request(8))
        stage.end(8)
        stage.forwarding.begun.clear()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_request_that_the_engine_refuses_to_write_is_answered_with_400() -> None:
    stage = Stage((ONE,))

    def forward(pool: int, stream: int, sent: Any) -> bool:
        raise ValueError("cannot forward the field")

    stage.forwarding.forward = forward  # type: ignore[method-assign]
    stage.handle(request(4))
    assert stage.engine.answers[4].status == 400
    assert (stage.exchanges.running, stage.servers[0].running, len(stage.lines())) == (0, 0, 1)


@pytest.mark.parametrize(
    ("networks", "client", "forwarded_for"),
    [
        ([], "192.0.2.9", b"192.0.2.9"),
        (["192.0.2.0/24"], "198.51.100.7", b"198.51.100.7, 192.0.2.9"),
        (["203.0.113.0/24"], "192.0.2.9", b"192.0.2.9"),
    ],
)
def test_only_a_trusted_proxy_says_who_the_client_is(networks: list[str], client: str, forwarded_for: bytes) -> None:
    trusted = TrustedProxies(networks)
    stage = Stage((ONE,), rules=RouteRules(trusted=trusted))
    access = AccessRule(json_line)
    stage.exchanges.use(Revision(2, always(stage.handler), access, trusted=trusted))
    stage.handle(request(4, headers=[(b"x-forwarded-for", b"198.51.100.7")]))
    sent = stage.forwarding.running[4][1]
    assert (b"x-forwarded-for", forwarded_for) in sent.add
    assert (b"x-real-ip", client.encode()) in sent.add
    assert b"x-forwarded-for" in sent.drop
    stage.end(4)
    assert stage.lines()[0]["peer"] == client
