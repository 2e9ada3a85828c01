"""A fixed answer is sent when the whole request arrived, never before, and request bodies cost no memory."""

from __future__ import annotations

import asyncio

import pytest

from workers.body import Body
from workers.handlers.fixed import FixedHandler, encoded, method_not_allowed
from workers.http import Headers, Request, Response
from workers.pipeline import Handler


def fixed(status: int = 200, headers: Headers = (), body: bytes = b"ok") -> FixedHandler:
    return FixedHandler(status, headers, body, max_body_bytes=100)


def request(method: bytes, body: Body | None = None, *headers: tuple[bytes, bytes]) -> Request:
    return Request(method, b"a", b"/up", headers, body=body)


def at_once(handler: Handler, asked: Request) -> Response:
    response = handler(asked)
    assert isinstance(response, Response)
    return response


def test_the_answer_has_a_content_type_and_a_length() -> None:
    got = at_once(fixed(), request(b"GET"))
    assert (got.status, got.body) == (200, b"ok")
    assert set(got.headers) == {(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")}
    headers = ((b"content-type", b"text/x"), (b"location", b"/1"))
    made = at_once(fixed(201, headers, b"made"), request(b"POST"))
    assert (made.status, made.body) == (201, b"made")
    assert set(made.headers) == {*headers, (b"content-length", b"4")}


def test_head_gets_the_fields_without_the_body() -> None:
    head = at_once(fixed(), request(b"HEAD"))
    assert (head.status, head.body, head.headers) == (200, None, at_once(fixed(), request(b"GET")).headers)


def test_a_method_that_a_path_does_not_have_gets_405_with_those_that_it_has() -> None:
    handler = method_not_allowed([b"POST", b"GET", b"HEAD"])
    refused = at_once(handler, request(b"PUT"))
    assert (refused.status, dict(refused.headers)[b"allow"]) == (405, b"GET, HEAD, POST")
    head = at_once(handler, request(b"HEAD"))
    assert (head.headers, head.body) == (refused.headers, None)


def test_the_answer_waits_for_the_end_of_the_body_and_extends_credit_for_each_chunk() -> None:
    async def play() -> None:
        credits: list[int] = []
        body = Body(credits.append)
        task = asyncio.ensure_future(fixed()(request(b"POST", body)))  # type: ignore[arg-type]
        for chunk in (b"x" * 40, b"y" * 60):
            body.feed(chunk, False)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not task.done()
        assert credits == [40, 60]
        body.feed(b"", True)
        assert (await task).status == 200

    asyncio.run(play())


def test_a_body_above_the_bound_is_refused_before_its_end() -> None:
    async def play() -> None:
        body = Body(lambda n_bytes: None)
        task = asyncio.ensure_future(fixed()(request(b"POST", body)))  # type: ignore[arg-type]
        body.feed(b"x" * 101, False)
        assert (await asyncio.wait_for(task, 5)).status == 413

    asyncio.run(play())


def test_a_body_with_a_content_length_above_the_bound_is_refused_at_once() -> None:
    asked = request(b"POST", Body(lambda n_bytes: None), (b"content-length", b"101"))
    assert at_once(fixed(), asked).status == 413


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_no_length(status: int) -> None:
    assert fixed(status, (), b"").whole == Response(status)


def test_field_names_are_sent_in_lower_case() -> None:
    assert encoded({"X-A": "One"}) == ((b"x-a", b"One"),)
