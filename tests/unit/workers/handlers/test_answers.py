"""A fixed answer is given when the whole request is there, never before, and bodies cost no memory."""

from __future__ import annotations

import asyncio

import pytest

from velocity_edge.config.model import Config
from workers.handlers.answers import ANY, Answer, Answers
from workers.http import Body, Request, Response
from workers.serve.revisions import _answers

OK = Answer.of(200, (), b"ok")
CREATED = Answer.of(201, ((b"content-type", b"text/x"), (b"location", b"/1")), b"made")


def request(method: bytes, body: Body | None = None, *headers: tuple[bytes, bytes]) -> Request:
    return Request(method, b"a", b"/up", headers, body=body)


def at_once(answers: Answers, asked: Request) -> Response:
    response = answers(asked)
    assert isinstance(response, Response)
    return response


def test_each_method_has_its_answer_and_others_learn_which_there_are() -> None:
    answers = Answers({b"GET": OK, b"POST": CREATED}, 100)
    got = at_once(answers, request(b"GET"))
    assert (got.status, got.body) == (200, b"ok")
    assert set(got.headers) == {(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")}
    made = at_once(answers, request(b"POST"))
    assert (made.status, made.body) == (201, b"made")
    assert set(made.headers) == {(b"content-type", b"text/x"), (b"location", b"/1"), (b"content-length", b"4")}
    head = at_once(answers, request(b"HEAD"))
    assert (head.status, head.body, head.headers) == (200, None, got.headers)
    refused = at_once(answers, request(b"PUT"))
    assert (refused.status, dict(refused.headers)[b"allow"]) == (405, b"GET, HEAD, POST")


def test_a_route_without_methods_answers_all() -> None:
    answers = Answers({ANY: OK}, 100)
    assert {at_once(answers, request(method)).status for method in (b"GET", b"PUT", b"DELETE")} == {200}
    assert at_once(answers, request(b"HEAD")).body is None


def test_the_answer_waits_for_the_end_of_the_body_and_gives_credit_for_each_chunk() -> None:
    async def play() -> None:
        credits: list[int] = []
        body = Body(credits.append)
        task = asyncio.ensure_future(Answers({ANY: OK}, 100)(request(b"POST", body)))  # type: ignore[arg-type]
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
        task = asyncio.ensure_future(Answers({ANY: OK}, 100)(request(b"POST", body)))  # type: ignore[arg-type]
        body.feed(b"x" * 101, False)
        assert (await asyncio.wait_for(task, 5)).status == 413

    asyncio.run(play())


def test_a_body_that_is_announced_as_too_large_is_refused_at_once() -> None:
    asked = request(b"POST", Body(lambda n_bytes: None), (b"content-length", b"101"))
    assert at_once(Answers({ANY: OK}, 100), asked).status == 413


@pytest.mark.parametrize("status", [204, 304])
def test_what_has_no_body_has_no_length(status: int) -> None:
    assert Answer.of(status, (), b"").whole == Response(status)


def test_routes_of_one_path_come_together() -> None:
    sections = Config.from_json(
        {
            "content": {
                "routes": [
                    {"match": {"path": "/a", "methods": ["GET"]}, "action": {"type": "static", "body": "one"}},
                    {"match": {"path": "/b"}, "action": {"type": "static", "headers": {"X-A": "1"}}},
                    {"match": {"path": "/a/", "methods": ["PUT"]}, "action": {"type": "static", "status": 201}},
                ]
            }
        }
    ).content.routes
    found = dict(_answers(sections, 100))
    assert set(found) == {"/a", "/b"}
    assert at_once(found["/a"], request(b"PUT")).status == 201
    assert at_once(found["/a"], request(b"GET")).body == b"one"
    assert (b"x-a", b"1") in at_once(found["/b"], request(b"POST")).headers
