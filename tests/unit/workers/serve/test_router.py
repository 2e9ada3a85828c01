"""The most specific route of the exact host answers, and no spelling of a path leads around it.

A naive model, which compares all routes with each other, finds the same as the tree for any routes and paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.config.match import HeaderMatch
from velocity_edge.config.patterns import Pattern, parse_pattern
from workers.http import Request, host_of
from workers.serve.conditions import condition
from workers.serve.path_routes import Answers, Route
from workers.serve.router import Router


def refused(methods: Iterable[bytes]) -> str:
    return b"405 ".decode() + b",".join(methods).decode()


ANSWERS = Answers("no such host", "no such path", "ambiguous", refused)


def route(
    host: str, path: str = "/", *methods: bytes, exact: bool = False, found: str = "", **headers: Any
) -> Route[str]:
    conditions = {name.replace("_", "-"): HeaderMatch.model_validate(one) for name, one in headers.items()}
    return Route(
        host,
        parse_pattern(path, exact=exact),
        found or f"{host}{path}",
        methods,
        tuple(condition(name, one) for name, one in conditions.items()),
        tuple((name, one.model_dump_json()) for name, one in conditions.items()),
    )


def router(*routes: Route[str]) -> Router[str]:
    return Router(routes, ANSWERS)


def request(authority: bytes, target: bytes = b"/", method: bytes = b"GET", **headers: bytes) -> Request:
    fields = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return Request(method, authority, target, fields)


def found(routes: Router[str], path: bytes, method: bytes = b"GET", **headers: bytes) -> str:
    return routes.find(request(b"x", path, method, **headers))


# --- hosts


def test_hosts() -> None:
    routes = router(route("example.com"), route("*.example.com"), route("*"), route("::1"))

    def of(authority: bytes) -> str:
        return routes.find(request(authority))

    assert of(b"example.com") == "example.com/"
    assert of(b"EXAMPLE.com.:4433") == "example.com/"
    assert of(b"a.example.com:443") == "*.example.com/"
    assert of(b"a.b.example.com") == "*/"
    assert of(b"[::1]:4433") == "::1/"
    assert of(b"other") == "*/"
    assert of(b".example.com") == "*/"


def test_an_unknown_host_and_an_unknown_path_are_distinguished() -> None:
    routes = router(route("example.com", "/app"))
    assert routes.find(request(b"other.example")) == "no such host"
    assert routes.find(request(b"example.com")) == "no such path"


def test_the_routes_of_a_less_exact_host_do_not_count() -> None:
    routes = router(route("example.com", "/app"), route("*", "/"))
    assert routes.find(request(b"example.com", b"/other")) == "no such path"


# --- paths


def test_the_longest_prefix_of_whole_segments_wins() -> None:
    routes = router(route("*"), route("*", "/api"), route("*", "/api/v2/"))
    assert found(routes, b"/api") == "*/api"
    assert found(routes, b"/api/") == "*/api"
    assert found(routes, b"/api/v1") == "*/api"
    assert found(routes, b"/api/v2/users") == "*/api/v2/"
    assert found(routes, b"/apix") == "*/"


def test_a_literal_segment_precedes_a_parameter_from_the_left() -> None:
    routes = router(
        route("*", "/a/{x}/c"), route("*", "/a/b"), route("*", "/{rest...}"), route("*", "/a/{x}"), route("*", "/d")
    )
    assert found(routes, b"/a/b/c") == "*/a/b"
    assert found(routes, b"/a/z/c") == "*/a/{x}/c"
    assert found(routes, b"/a/z/d") == "*/a/{x}"
    assert found(routes, b"/a/") == "*/{rest...}"
    assert found(routes, b"/z") == "*/{rest...}"


def test_an_exact_route_is_for_its_path_alone() -> None:
    routes = router(route("*"), route("*", "/a", exact=True), route("*", "/b/", exact=True), route("*", "/a/{x}"))
    assert found(routes, b"/a") == "*/a"
    assert [found(routes, path) for path in (b"/a/", b"/b", b"/b/c")] == ["*/"] * 3
    assert found(routes, b"/b/") == "*/b/"
    assert found(routes, b"/a/1/2") == "*/a/{x}"


def test_the_root_alone() -> None:
    routes = router(route("*", "/", exact=True, found="root"), route("*", "/{rest...}", found="rest"))
    assert [found(routes, path) for path in (b"/", b"//", b"/.", b"/a/..", b"/a")] == ["root"] * 4 + ["rest"]


def test_parameters_are_decoded() -> None:
    routes = router(route("*", "/u/{id}/f/{rest...}"))
    asked = request(b"x", b"/u/a%2Fb%20%C3%BC/f/c/%ff/?q")
    assert routes.find(asked) == "*/u/{id}/f/{rest...}"
    assert asked.params == {"id": "a/b ü", "rest": "c/\ufffd/"}
    empty = request(b"x", b"/u/1/f/")
    assert routes.find(empty) == "*/u/{id}/f/{rest...}"
    assert empty.params == {"id": "1", "rest": ""}
    assert found(routes, b"/u/1/f") == "no such path"
    assert found(routes, b"/u//f/x") == "no such path"


def test_routes_of_one_shape_name_their_own_parameters() -> None:
    routes = router(route("*", "/u/{id}", b"GET"), route("*", "/u/{name}", b"PUT"))
    asked = [request(b"x", b"/u/1", method) for method in (b"GET", b"PUT", b"POST")]
    assert [routes.find(one) for one in asked] == ["*/u/{id}", "*/u/{name}", "405 GET,HEAD,PUT"]
    assert [dict(one.params) for one in asked] == [{"id": "1"}, {"name": "1"}, {}]


PROTECTED = router(route("*"), route("*", "/admin"))


@pytest.mark.parametrize(
    "path",
    [
        b"/%61dmin",
        b"/%61%64%6D%69%6e/x",
        b"//admin",
        b"/x/../admin",
        b"/x/%2e%2e/admin",
        b"/x/%2E./admin",
        b"/./admin/",
        b"/../admin",
        b"/x//..//admin",
    ],
)
def test_another_spelling_of_a_path_is_the_same_path(path: bytes) -> None:
    assert found(PROTECTED, path) == "*/admin"


@pytest.mark.parametrize(
    "path",
    [b"/x/..%2fadmin", b"/x/..%2Fadmin", b"/x%2f..%2fadmin", b"/x/..\\admin", b"/x/%2e%2e%5cadmin", b"/x/..;a=b/admin"],
)
def test_a_path_that_servers_read_in_different_ways_has_no_route(path: bytes) -> None:
    assert found(PROTECTED, path) == "ambiguous"


@st.composite
def spellings(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A path, and another spelling of it."""
    segments = draw(st.lists(st.sampled_from([b"admin", b"a", b"b~c", b"x.y"]), min_size=1, max_size=4))
    written = b""
    for segment in segments:
        detour = draw(st.sampled_from([b"", b"", b"/", b"/.", b"/%2e", b"/q/..", b"/q/%2E%2e", b"/q//../."]))
        encoded = draw(st.sets(st.integers(0, len(segment) - 1)))
        written += detour + b"/"
        written += b"".join(b"%%%02x" % c if i in encoded else bytes((c,)) for i, c in enumerate(segment))
    return b"/" + b"/".join(segments), written


@given(spellings())
def test_no_spelling_leads_around_a_route(both: tuple[bytes, bytes]) -> None:
    routes = router(route("*"), route("*", "/admin"), route("*", "/a/{id}"), route("*", "/a/b~c"), route("*", "/x.y"))
    plain, written = both
    assert found(routes, written) == found(routes, plain), written


def test_encoded_slashes_without_dots_are_part_of_a_segment() -> None:
    assert found(PROTECTED, b"/x/a%2Fb") == "*/"
    assert found(PROTECTED, b"/admin%2Fb") == "*/"


def test_a_request_without_a_path_is_for_what_has_every_path() -> None:
    assert found(router(route("*"), route("*", "/a")), b"*", b"OPTIONS") == "*/"
    assert found(router(route("*", "/", exact=True), route("*", "/a")), b"*", b"OPTIONS") == "no such path"
    assert found(router(route("*", "/a")), b"", b"CONNECT") == "no such path"


# --- methods and conditions


def test_a_method_that_no_route_of_the_path_has_is_refused_there() -> None:
    routes = router(
        route("*"), route("*", "/api", b"POST", b"GET", found="api"), route("*", "/api", b"PUT", found="put")
    )
    assert [found(routes, b"/api/x", method) for method in (b"POST", b"HEAD", b"PUT")] == ["api", "api", "put"]
    assert found(routes, b"/api", b"DELETE") == "405 GET,HEAD,POST,PUT"


def test_an_extended_connect_counts_as_get() -> None:
    routes = router(route("*", "/ws", b"GET"))
    asked = Request(b"CONNECT", b"x", b"/ws", protocol=b"websocket")
    assert routes.find(asked) == "*/ws"
    assert found(routes, b"/ws", b"CONNECT") == "405 GET,HEAD"


def test_more_conditions_are_asked_first_and_the_next_route_answers_when_they_fail() -> None:
    routes = router(
        route("*", "/", found="site"),
        route("*", "/a", found="beta", x_beta={"exact": "1"}),
        route("*", "/a", found="both", x_beta={"exact": "1"}, x_user={"present": True}),
        route("*", "/a", found="absent", x_user={"present": False}, x_beta={"present": False}, x_z={"regex": "[a-c]+"}),
    )
    assert found(routes, b"/a", x_beta=b"1") == "beta"
    assert found(routes, b"/a", x_beta=b"1", x_user=b"") == "both"
    assert found(routes, b"/a", x_beta=b"2") == "site"
    assert found(routes, b"/a", x_z=b"abc") == "absent"
    assert found(routes, b"/a", x_z=b"abcd") == "site"
    assert found(routes, b"/a", x_z=b"a" * 513) == "site"
    assert found(routes, b"/a", x_z=b"abc", x_user=b"1") == "site"


def test_two_routes_for_the_same_requests_are_an_error() -> None:
    for first, second in (
        (route("example.com", "/a"), route("EXAMPLE.com", "/a/")),
        (route("*", "/{a}"), route("*", "/{b}", b"GET")),
        (route("*", "/a", b"GET"), route("*", "/a")),
        (route("*", "/a", x_a={"exact": "1"}), route("*", "/a", x_a={"exact": "1"})),
    ):
        with pytest.raises(ValueError, match="two routes"):
            router(first, second)


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (b"Example.COM", b"example.com"),
        (b"example.com:443", b"example.com"),
        (b"example.com.", b"example.com"),
        (b"[2001:DB8::1]:443", b"[2001:db8::1]"),
        (b"[::1", b""),
        (b"", b""),
    ],
)
def test_the_host_of_an_authority(authority: bytes, host: bytes) -> None:
    assert host_of(authority) == host


# --- the naive model


def matches(pattern: Pattern, segments: Sequence[bytes]) -> bool:
    """Whether *pattern* is for a path, segment by segment."""
    fixed = pattern.segments
    for own, theirs in zip(fixed, segments, strict=False):
        if (own is None and not theirs) or (own is not None and own != theirs):
            return False
    if len(segments) < len(fixed):
        return False
    if pattern.rest is not None:
        return len(segments) > len(fixed)
    return not pattern.exact or len(segments) == len(fixed) or (list(segments) == [b""] and not fixed)


def rank(pattern: Pattern) -> list[int]:
    """Patterns that match the same path compare by this: the least is the most specific."""
    if pattern.exact and not pattern.segments:
        return [-1]
    kinds = [1 if segment is None else 0 for segment in pattern.segments]
    return [*kinds, 2] if pattern.rest is not None else [*kinds, 3 if pattern.exact else 4]


def naive(routes: Sequence[Route[str]], path: bytes) -> str:
    segments = path[1:].split(b"/")
    candidates = [one for one in routes if matches(one.pattern, segments)]
    return min(candidates, key=lambda one: rank(one.pattern)).found if candidates else "no such path"


SEGMENTS = st.sampled_from(["a", "b", "c"])
PATHS = st.builds(
    lambda parts, rest: "/" + "/".join([*(f"{{p{i}}}" if one == "*" else one for i, one in enumerate(parts)), *rest]),
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=4),
    st.sampled_from([[], [], ["{rest...}"]]),
)


@given(
    st.lists(st.tuples(PATHS, st.booleans()), max_size=12),
    st.lists(st.builds(lambda parts, end: "/" + "/".join(parts) + end, st.lists(SEGMENTS), st.sampled_from(["", "/"]))),
)
def test_the_tree_finds_what_comparing_all_routes_finds(drawn: list[tuple[str, bool]], paths: list[str]) -> None:
    by_shape = {one.pattern.shape: one for path, exact in drawn for one in [route("*", path, exact=exact)]}
    routes = router(*by_shape.values(), route("other"))
    if not by_shape:
        return
    for path in paths:
        path = path.replace("//", "/")
        assert found(routes, path.encode()) == naive(list(by_shape.values()), path.encode()), path
