"""A request body above the bound is a 413, from its length or while it arrives, and the bound is the route's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from workers.body import Body
from workers.handlers.fixed import FixedHandler
from workers.http import Answer, Request, Response, plain
from workers.middleware.body_limit import LimitBody
from workers.pipeline import Handler

HANDLER = FixedHandler(200, (), b"x", 10)


async def read_all(request: Request) -> Response:
    return plain(200, f"{len(await request.body.read(1000))}")


async def status(handler: Handler, bound: int, chunks: list[bytes], length: bytes | None = None) -> int:
    body = Body(lambda _: None)
    headers = [(b"content-length", length)] if length is not None else []
    answer: Answer | Awaitable[Answer] = LimitBody(bound).wrap(handler)(
        Request(b"POST", b"a.test", b"/", headers, body=body)
    )
    if not isinstance(answer, Response):
        for n, chunk in enumerate(chunks):
            body.feed(chunk, n + 1 == len(chunks))
            await asyncio.sleep(0)
        assert not isinstance(answer, Answer)
        answer = await answer
    assert isinstance(answer, Response)
    return answer.status


@pytest.mark.parametrize("handler", [HANDLER, read_all])
async def test_the_bound_holds_below_and_above_the_default(handler: Handler) -> None:
    for bound in (0, 5, 15):
        assert await status(handler, bound, [b"x" * bound]) == 200
        assert await status(handler, bound, [b"x" * bound, b"x"]) == 413
        assert await status(handler, bound, [], b"%d" % (bound + 1)) == 413


async def test_a_body_that_arrived_before_the_handler_is_bounded_too() -> None:
    """An outer middleware has waited for it, and the handler does not read what is complete."""
    for size, expected in ((5, 200), (6, 413)):
        body = Body(lambda _: None)
        body.feed(b"x" * size, True)
        answer = LimitBody(5).wrap(HANDLER)(Request(b"POST", b"a.test", b"/", body=body))
        assert isinstance(answer, Response)
        assert answer.status == expected


async def test_a_length_too_long_to_be_one_is_refused() -> None:
    assert await status(HANDLER, 5, [], b"9" * 5000) == 413


async def test_without_a_body_limit_the_default_holds() -> None:
    body = Body(lambda _: None)
    result = HANDLER(Request(b"POST", b"a.test", b"/", body=body))
    body.feed(b"x" * 11, True)
    assert not isinstance(result, Response)
    assert (await result).status == 413
