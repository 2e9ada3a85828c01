"""Rules look at the part that they name, in the form that they ask for, and do what they say."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from pydantic import ValidationError

from velocity_edge.config.middlewares.waf import WafRules
from velocity_edge.config.section import all_problems
from workers.body import Body
from workers.http import Request, Response, plain
from workers.measures import Measures
from workers.middleware.waf import Firewall
from workers.pipeline import Handler

TEXT = (b"content-type", b"text/plain")


def rules(*many: dict[str, Any], core: bool = False, **keys: Any) -> WafRules:
    each = [{"id": f"r{n}", **rule} for n, rule in enumerate(many)]
    return WafRules.model_validate({"rules": each, "core": core, **keys})


def rule(field: str, pattern: str, *decode: str, **keys: Any) -> dict[str, Any]:
    return {"match": {"field": field, "pattern": pattern, "decode": list(decode)}, **keys}


class Wall:
    def __init__(self, section: WafRules, handler: Handler = lambda _: plain(200), window_bytes: int = 1 << 20) -> None:
        self.measures = Measures()
        self.now_ns = 0
        self.handle = Firewall(section, self.measures, window_bytes, lambda: self.now_ns).wrap(handler)

    def status(self, target: bytes = b"/", *headers: tuple[bytes, bytes], method: bytes = b"GET") -> int:
        response = self.handle(Request(method, b"a.test", target, headers))
        assert isinstance(response, Response)
        return response.status

    async def posted(self, *chunks: bytes, headers: tuple[tuple[bytes, bytes], ...] = (TEXT,), end: bool = True) -> int:
        body = Body(lambda _: None)
        result = self.handle(Request(b"POST", b"a.test", b"/", headers, body=body))
        for n, chunk in enumerate(chunks):
            body.feed(chunk, end and n == len(chunks) - 1)
            await asyncio.sleep(0)
        if not isinstance(result, Response):
            result = await asyncio.wait_for(result, 5)  # type: ignore[arg-type]
        assert isinstance(result, Response)
        return result.status

    def counted(self, name: str, action: str) -> float:
        return self.measures.counter("velocity_waf_total", (name, action)).value


def test_a_rule_looks_at_its_part_only() -> None:
    for field, target, headers in (
        ("path", b"/evil?x=1", ()),
        ("query", b"/x?evil", ()),
        ("header:X-Name", b"/x", ((b"x-name", b"an evil one"),)),
        ("header x-name", b"/x", ((b"x-name", b"an evil one"),)),
        ("headers", b"/x", ((b"x-other", b"an evil one"),)),
    ):
        wall = Wall(rules(rule(field, "evil")))
        found = [wall.status(b"/evil?x=1"), wall.status(b"/x?evil"), wall.status(b"/x", (b"x-name", b"an evil one"))]
        assert wall.status(target, *headers) == 403, field
        assert found.count(403) == (0 if headers and field == "headers" else 1) or field == "headers"
    assert Wall(rules(rule("method", "^TRACE$"))).status(method=b"TRACE") == 403
    anywhere = Wall(rules(rule("any", "evil")))
    assert [anywhere.status(t) for t in (b"/evil", b"/?evil", b"/")] == [403, 403, 200]
    assert anywhere.status(b"/", (b"a", b"evil")) == 403


def test_text_is_decoded_as_the_rule_says() -> None:
    assert Wall(rules(rule("path", "a b"))).status(b"/a%20b") == 200
    decoding = Wall(rules(rule("path", "a b", "url")))
    assert [decoding.status(t) for t in (b"/a%20b", b"/a%2520b", b"/a%252520b", b"/a+b", b"/a%2")] == [403] * 3 + [
        200
    ] * 2
    assert Wall(rules(rule("query", "a b", "url"))).status(b"/?a+b") == 403
    assert Wall(rules(rule("query", "<b>", "url", "html"))).status(b"/?%26lt;b&gt;") == 403
    assert Wall(rules(rule("path", "evil", "lowercase"))).status(b"/EVIL") == 403


def test_actions_count_and_the_first_that_blocks_decides() -> None:
    wall = Wall(rules(rule("path", "a", action="log"), rule("path", "b", status=404), rule("path", "bb", status=410)))
    assert [wall.status(t) for t in (b"/a", b"/b", b"/bb", b"/x")] == [200, 404, 404, 200]
    assert (wall.counted("r0", "log"), wall.counted("r1", "block"), wall.counted("r2", "block")) == (1, 2, 1)


def test_scores_add_up_once_for_each_rule() -> None:
    wall = Wall(rules(rule("any", "a", action="score", score=3), rule("path", "b", action="score", score=2)))
    assert [wall.status(t) for t in (b"/a?a=a", b"/b", b"/ab", b"/x")] == [200, 200, 403, 200]
    assert wall.counted("score", "block") == 1


async def test_the_beginning_of_a_body_is_looked_at_and_the_handler_gets_all_of_it() -> None:
    received: list[bytes] = []

    async def read(request: Request) -> Response:
        received.append(await request.body.read(1 << 20))
        return plain(200)

    wall = Wall(rules(rule("body", "evil"), body_limit=10), read)
    assert await wall.posted(b"a", b"n ev", b"il one") == 403
    assert await wall.posted(b"0123456789", b"evil", b"x") == 200
    assert await wall.posted(b"evil", headers=((b"content-type", b"image/png"),)) == 200
    assert await wall.posted(b"short") == 200
    assert await wall.posted(b"") == 200
    assert received == [b"0123456789evilx", b"evil", b"short", b""]


async def test_a_body_is_not_waited_for_beyond_what_its_client_may_send() -> None:
    """With a window of 16 bytes nobody can send more before it is read."""
    wall = Wall(rules(rule("body", "evil"), body_limit=1000), window_bytes=16)
    assert await wall.posted(b"0123456789", end=False) == 200


async def test_a_client_that_waits_for_a_100_is_invited() -> None:
    invited = []
    body = Body(lambda _: None, lambda: invited.append(True))
    result = Wall(rules(rule("body", "evil"))).handle(Request(b"POST", b"a.test", b"/", (TEXT,), body=body))
    task = asyncio.ensure_future(result)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert invited == [True]
    body.feed(b"evil", True)
    assert (await task).status == 403


def test_logs_do_not_repeat_what_was_found(caplog: pytest.LogCaptureFixture) -> None:
    wall = Wall(rules(rule("any", "password=", action="log")))
    with caplog.at_level(logging.WARNING):
        for n in range(20):
            wall.status(b"/secret%d?password=hunter2" % n, (b"cookie", b"password=hunter3"))
        assert len(caplog.records) == 5, "at most five lines a second"
        wall.now_ns += 10**9
        wall.status(b"/?password=hunter2")
    assert len(caplog.records) == 6
    assert "hunter" not in caplog.text
    assert "secret" not in caplog.text
    assert "waf rule r0 (log) matched the query of a GET for a.test from -" in caplog.text


def test_core_rules_can_be_switched_off() -> None:
    target = b"/x?id=1+union+select+1"
    assert Wall(rules(core=True)).status(target) == 403
    assert Wall(rules(core=True, core_action="log")).status(target) == 200
    assert Wall(rules(core=True, off="sql-injection")).status(target) == 200
    assert Wall(rules(core=False)).status(target) == 200


def test_no_pattern_takes_more_than_linear_time() -> None:
    wall = Wall(rules(rule("query", r"(a+)+$"), rule("query", r"(x*)*y"), rule("query", "(?i)(.*)(.*)(.*)(.*)(.*)z$")))
    assert wall.status(b"/?" + b"a" * 16_000 + b"b" + b"x" * 16_000) == 200


def test_rules_that_cannot_work_are_refused() -> None:
    for bad in ("(a", r"(a)\1", "(?=a)", "a{1000}{1000}"):
        with pytest.raises(ValidationError, match="cannot use the pattern"):
            rules(rule("path", bad))
    with pytest.raises(ValidationError, match="cannot use 'cookie'"):
        rules(rule("cookie", "a"))
    assert [where for where, _ in all_problems(rules(off=["nothing"]))] == [("off", "0")]
    twice = rules(rule("path", "a", id="x"), rule("path", "b", id="x"), rule("path", "c", id="traversal"))
    assert [where for where, _ in all_problems(twice)] == [("rules", str(n), "id") for n in range(3)]


def test_many_rules_are_looked_at_even_if_they_are_too_large_for_one_pattern() -> None:
    many = [rule("path", f"(?:{chr(97 + n % 26)}[a-z]{{200}}){{20}}\\w{{50}}x{n}") for n in range(40)] + [
        rule("path", "evil")
    ]
    assert [Wall(rules(*many)).status(t) for t in (b"/evil", b"/good")] == [403, 200]
