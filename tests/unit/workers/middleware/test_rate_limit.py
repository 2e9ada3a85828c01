"""Requests over a limit are refused with the fields that a client needs, and each key counts for itself."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from pydantic import ValidationError

from velocity_edge.config.content import Content
from velocity_edge.config.middlewares.rate_limit import RateLimitRule
from velocity_edge.config.routes import Route, routes_of
from velocity_edge.config.section import all_problems
from velocity_edge.config.server import Server
from velocity_edge.wire import rate_cells
from velocity_edge.wire.rate_cells import WAYS, RateCells
from workers.handlers.build import HandlerContext
from workers.http import Request, Response, plain
from workers.measures import Measures
from workers.middleware.build import Parts, around_errors, middleware_of
from workers.middleware.headers import Date
from workers.middleware.rate_limit import RateLimiter
from workers.pipeline import Pipeline, fold


def rule(**keys: Any) -> RateLimitRule:
    return RateLimitRule.model_validate({"limit": 2, "window": "10s", **keys})


def client(address: str, *headers: tuple[bytes, bytes], **more: Any) -> Request:
    request = Request(b"GET", b"a.test", b"/", headers, peer=(ipaddress.ip_address(address).packed, 1), **more)
    request.claims = {"sub": "ann"} if b"authorization" in dict(headers) else None
    return request


class Node:
    """Limiters of two workers that share their cells."""

    def __init__(self, name: str = "api", route: str = "/", cells: RateCells | None = None, **keys: Any) -> None:
        self.now_ns = 10**12
        self.cells = cells or RateCells.private()
        self.measures = Measures()
        self.handlers = [
            RateLimiter(name, rule(**keys), route, self.cells, self.measures, lambda: self.now_ns).wrap(
                lambda _: plain(200)
            )
            for _ in range(2)
        ]
        self.asked = 0

    def ask(self, request: Request) -> Response:
        self.asked += 1
        response = self.handlers[self.asked % 2](request)
        assert isinstance(response, Response)
        return response

    def statuses(self, *requests: Request) -> list[int]:
        return [self.ask(request).status for request in requests]


def test_fields_tell_the_policy_and_what_is_left() -> None:
    node = Node()
    answers = [node.ask(client("192.0.2.1")) for _ in range(3)]
    fields = [dict(answer.headers) for answer in answers]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert {found[b"ratelimit-policy"] for found in fields} == {b'"api";q=2;w=10'}
    assert [found[b"ratelimit"] for found in fields] == [b'"api";r=1;t=10', b'"api";r=0;t=10', b'"api";r=0;t=10']
    assert [found.get(b"retry-after") for found in fields] == [None, None, b"10"]
    node.now_ns += 10 * 10**9
    assert node.ask(client("192.0.2.1")).status == 200
    assert node.measures.counter("velocity_rate_limited_total", ("api",)).value == 1


def test_a_bucket_tells_its_depth_and_fills_evenly() -> None:
    node = Node(limit=10, burst=2)
    answers = [node.ask(client("192.0.2.1")) for _ in range(3)]
    assert dict(answers[0].headers)[b"ratelimit-policy"] == b'"api";q=2;w=2'
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert dict(answers[2].headers)[b"retry-after"] == b"1"
    node.now_ns += 10**9
    assert node.statuses(*[client("192.0.2.1")] * 2) == [200, 429]


def test_one_host_has_one_count_also_in_ipv6() -> None:
    node = Node()
    one, same, other = client("2001:db8::1"), client("2001:db8::ffff:1"), client("2001:db8:0:1::1")
    assert node.statuses(one, same, one, other, client("192.0.2.1"), client("192.0.2.2")) == [
        200,
        200,
        429,
        200,
        200,
        200,
    ]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("header X-Api-Key", ((b"x-api-key", b"1"), (b"x-api-key", b"2"))),
        ("claim sub", ((b"authorization", b"x"), None)),
    ],
)
def test_values_have_their_own_counts_and_who_has_none_counts_by_address(key: str, names: Any) -> None:
    node = Node(key=key, limit=1)
    first = client("192.0.2.1", *([names[0]] if names[0] else []))
    second = client("192.0.2.1", *([names[1]] if names[1] else []))
    assert node.statuses(first, client("192.0.2.9", names[0]), second, second) == [200, 429, 200, 429]
    assert node.statuses(client("192.0.2.7"), client("192.0.2.7"), client("192.0.2.8")) == [200, 429, 200]


def test_a_header_cannot_name_the_count_of_an_address() -> None:
    node = Node(key="header x", limit=1)
    address = client("192.0.2.1")
    forged = client("192.0.2.2", (b"x", b"@" + ipaddress.ip_address("192.0.2.1").packed))
    assert node.statuses(forged, address) == [200, 200]


def test_routes_count_apart_and_global_together() -> None:
    cells = RateCells.private()
    routes = [Node(route=route, cells=cells, key="route", limit=1) for route in ("/a", "/b")]
    assert [node.statuses(client("192.0.2.1"), client("192.0.2.2")) for node in routes] == [[200, 429], [200, 429]]
    everything = [Node(route=route, cells=cells, key="global", limit=1) for route in ("/a", "/b")]
    assert [node.statuses(client("192.0.2.1")) for node in everything] == [[200], [429]]


def test_counts_outlive_a_revision_unless_the_rule_changes() -> None:
    cells = RateCells.private()
    assert Node(cells=cells).statuses(*[client("192.0.2.1")] * 3) == [200, 200, 429]
    assert Node(cells=cells).statuses(client("192.0.2.1")) == [429]
    for changed in ({"limit": 3}, {"window": "11s"}, {"burst": 1}, {"key": "global"}, {"name": "other"}):
        assert Node(cells=cells, **changed).statuses(client("192.0.2.1")) == [200], changed


def test_counts_that_a_full_table_forgets_are_reported() -> None:
    node = Node(cells=RateCells(rate_cells.create(sets=1)))
    for n in range(20):
        node.ask(client(f"192.0.2.{n}"))
    assert node.measures.counter("velocity_rate_limit_evicted_total").value == 20 - WAYS


def test_early_data_counts_for_nobody() -> None:
    """Its source address may be a victim's, whose requests would be used up."""
    node = Node(limit=1)
    assert node.statuses(client("192.0.2.1", early=True), client("192.0.2.1")) == [425, 200]
    assert Node(key="global").statuses(client("192.0.2.1", early=True)) == [200]


def test_head_gets_no_body_and_other_statuses_are_possible() -> None:
    node = Node(limit=1, status=503)
    head = Request(b"HEAD", b"a.test", b"/")
    assert [(answer.status, answer.body) for answer in (node.ask(head), node.ask(head))][1] == (503, None)
    assert Node(limit=1, status=499).statuses(head, head) == [200, 499]


def test_rules_that_cannot_be_counted_are_refused() -> None:
    for keys in ({"window": "50ms"}, {"window": "31d"}, {"limit": 20_001, "window": "1s", "burst": 5}):
        assert len(list(all_problems(rule(**keys)))) == 1, keys
    assert [rule(key=key).key for key in ("header:X-A", "header X-A", "claim:a:b", "claim a:b", "ip")] == [
        "header X-A",
        "header X-A",
        "claim a:b",
        "claim a:b",
        "ip",
    ]
    for bad in ("cookie", "header", "header a b", "claim ", "IP"):
        with pytest.raises(ValidationError, match="cannot use"):
            rule(key=bad)


def pipelines(content: dict[str, Any]) -> dict[str, Pipeline]:
    parsed = Content.model_validate(content)
    context, date = HandlerContext(lambda: 0.0), Date(lambda: 0.0)

    parts = Parts(Server(), date, {}, context, context.resources.lease())

    def made(route: Route) -> Pipeline:
        return fold(middleware_of(route, parts), lambda _: plain(200))

    found = {route.pattern.text: made(route) for route in routes_of(parsed)}
    return found | {"": fold(around_errors(parsed, Server(), date, context), lambda _: plain(404))}


def statuses(pipeline: Pipeline, address: str = "192.0.2.1") -> list[int]:
    answers = [pipeline.handle(client(address)) for _ in range(2)]
    return [answer.status for answer in answers if isinstance(answer, Response)]


def test_the_limit_of_the_content_counts_everything_together_but_what_has_its_own() -> None:
    answer = {"type": "static"}
    found = pipelines(
        {
            "rate_limit": {"limit": 2, "window": "1m"},
            "routes": [
                {"match": {"path": "/a"}, "action": answer},
                {"match": {"path": "/b"}, "action": answer},
                {"match": {"path": "/c"}, "action": answer, "rate_limit": {"limit": 1, "window": "1m"}},
            ],
        }
    )
    assert statuses(found["/a"]) == [200, 200]
    assert statuses(found["/b"]) == [429, 429]
    assert statuses(found[""]) == [429, 429], "paths without a route count, too"
    assert statuses(found["/c"]) == [200, 429]
    assert not any(pipeline.may_share for pipeline in found.values())


def test_addresses_are_looked_at_before_the_limit_of_the_content() -> None:
    """A client that is denied uses up nothing."""
    found = pipelines(
        {
            "rate_limit": {"limit": 1, "window": "1m", "key": "global"},
            "middlewares": [{"name": "lan", "kind": "ip", "allow": "192.0.2.0/24", "everywhere": True}],
            "routes": [{"match": {"path": "/a"}, "action": {"type": "static"}}],
        }
    )
    assert statuses(found["/a"], "198.51.100.1") == [403, 403]
    assert statuses(found["/a"]) == [200, 429]
