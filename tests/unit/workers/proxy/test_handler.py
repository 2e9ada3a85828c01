"""Invariant: by the Python client a request ends as it does by an engine; a body that nobody reads is let go."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable
from typing import Any

import pytest

from tests.support.fake_upstreams import Behind, settings
from velocity_edge.http.requests import Outcome
from workers.body import Body
from workers.http import Answer, BodyCutShort, Request, Response
from workers.proxy.client.answers import Attempt, AttemptFailed
from workers.proxy.group import Group, GroupSettings
from workers.proxy.handler import ProxyHandler, RouteRules
from workers.proxy.server import Server

ONE, TWO = "http://10.0.0.1", "http://10.0.0.2"


class Stage:
    def __init__(self, *urls: str, **group: Any) -> None:
        self.behind = Behind()
        own = [settings(url) for url in urls]
        self.servers = [Server(each, self.behind.context) for each in own]
        self.group = Group(GroupSettings(tuple((each, 1) for each in own), **group), self.servers, self.behind.context)
        self.handler = ProxyHandler(self.group, RouteRules(), self.behind.context)
        for server in self.servers:
            server.client()
        self.clients = self.behind.clients

    async def ask(self, request: Request | None = None) -> Response:
        answer: Answer | Awaitable[Answer] = self.handler(request or Request(b"GET", b"a", b"/x"))
        result = await answer if isinstance(answer, Awaitable) else answer
        assert isinstance(result, Response)
        return result

    @property
    def running(self) -> int:
        return sum(server.running for server in self.servers)


async def content(response: Response) -> bytes:
    assert not isinstance(response.body, bytes | None)
    return b"".join([chunk async for chunk in response.body])  # type: ignore[union-attr]


def test_a_response_is_relayed_and_its_server_is_free_at_its_end() -> None:
    async def run() -> None:
        stage = Stage(ONE)
        stage.clients[0].answers = [(201, [b"a", b"b"])]
        response = await stage.ask()
        assert (response.status, stage.running) == (201, 1)
        assert await content(response) == b"ab"
        assert stage.running == 0

    asyncio.run(run())


def test_another_server_is_tried_and_the_body_arrives_there() -> None:
    async def run() -> None:
        stage = Stage(ONE, TWO)
        stage.clients[0].answers = [AttemptFailed(Outcome.CONNECT_FAILED, "refused")]
        body = Body(lambda n_bytes: None)
        body.feed(b"body", True)
        request = Request(b"PUT", b"a", b"/x", body=body)
        # The fake reads the body before it fails, so the second attempt has none: what counts is where it goes.
        assert await content(await stage.ask(request)) == b"ok"
        assert request.upstream is not None
        assert (request.upstream[0], request.upstream[2], stage.running) == (TWO, 2, 0)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.CLOSED_EARLY, 502), (Outcome.RESPONSE_TIMEOUT, 504), (Outcome.INVALID, 502)]
)
def test_a_failure_before_the_head_is_an_answer(outcome: Outcome, status: int) -> None:
    async def run() -> None:
        stage = Stage(ONE)
        stage.clients[0].answers = [AttemptFailed(outcome, "x", Attempt(body_sent=True))]
        assert ((await stage.ask()).status, stage.running) == (status, 0)

    asyncio.run(run())


def test_a_body_above_the_bound_of_a_middleware_is_a_413() -> None:
    async def run() -> None:
        stage = Stage(ONE)
        body = Body(lambda n_bytes: None)
        body.max_bytes = 3
        body.feed(b"four", False)
        assert (await stage.ask(Request(b"POST", b"a", b"/", body=body))).status == 413
        assert stage.running == 0

    asyncio.run(run())


def test_a_failure_in_the_body_cuts_the_response_short() -> None:
    async def run() -> None:
        stage = Stage(ONE)
        response = await stage.ask()

        async def fail() -> bytes:
            raise AttemptFailed(Outcome.TRUNCATED, "the connection ended")

        response.body._answer.body._read = fail  # type: ignore[union-attr]
        with pytest.raises(BodyCutShort, match="the connection ended"):
            await content(response)
        assert (stage.running, stage.servers[0].failures) == (0, 1)

    asyncio.run(run())


def test_a_body_that_nobody_reads_is_let_go() -> None:
    async def run() -> None:
        stage = Stage(ONE)
        response: Response | None = await stage.ask()
        assert stage.running == 1
        del response
        gc.collect()
        assert (stage.running, stage.clients[0].aborted) == (0, 1)

    asyncio.run(run())


def test_a_cancelled_request_frees_its_server() -> None:
    async def run() -> None:
        stage = Stage(ONE)
        stage.clients[0].gate = asyncio.Event()
        task = asyncio.create_task(stage.ask())
        await asyncio.sleep(0)
        assert stage.running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stage.running == 0

    asyncio.run(run())


def test_the_request_has_an_id_and_the_rules_of_the_route() -> None:
    async def run() -> None:
        stage = Stage(ONE)
        await stage.ask()
        (sent,) = stage.clients[0].requests
        assert (b"x-request-id", b"an-id") in sent.add
        assert sent.authority == b"10.0.0.1"

    asyncio.run(run())
