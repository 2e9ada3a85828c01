"""The exact host takes precedence over the wildcard over the default; there, the longest prefix; there, the method."""

from __future__ import annotations

import pytest

from workers.http import host_of
from workers.serve.router import Route, Router


def route(host: str, prefix: str = "/", **by_method: str) -> Route[str]:
    return Route(host, prefix, f"{host}{prefix}", {name.encode(): found for name, found in by_method.items()})


def router(*routes: Route[str]) -> Router[str]:
    return Router(routes, "no such host", "no such path")


def found(routes: Router[str], authority: bytes, path: bytes = b"/", method: bytes = b"GET") -> str:
    return routes.find(host_of(authority), path, method)


def test_hosts() -> None:
    routes = router(route("example.com"), route("*.example.com"), route("*"), route("::1"))
    assert found(routes, b"example.com") == "example.com/"
    assert found(routes, b"EXAMPLE.com.:4433") == "example.com/"
    assert found(routes, b"a.example.com:443") == "*.example.com/"
    assert found(routes, b"a.b.example.com") == "*/"
    assert found(routes, b"[::1]:4433") == "::1/"
    assert found(routes, b"other") == "*/"
    assert found(routes, b".example.com") == "*/"


def test_an_unknown_host_and_an_unknown_path_are_distinguished() -> None:
    routes = router(route("example.com", "/app"))
    assert found(routes, b"other.example") == "no such host"
    assert found(routes, b"example.com", b"/") == "no such path"


def test_the_longest_prefix_of_whole_segments_wins() -> None:
    routes = router(route("*"), route("*", "/api"), route("*", "/api/v2/"))
    assert found(routes, b"x", b"/api") == "*/api"
    assert found(routes, b"x", b"/api/v1") == "*/api"
    assert found(routes, b"x", b"/api/v2/users") == "*/api/v2/"
    assert found(routes, b"x", b"/apix") == "*/"


def test_a_route_may_have_something_else_for_a_method() -> None:
    routes = router(route("*", "/api", POST="posted"))
    assert found(routes, b"x", b"/api", b"POST") == "posted"
    assert found(routes, b"x", b"/api", b"GET") == "*/api"


def test_two_routes_with_the_same_host_and_prefix_are_an_error() -> None:
    with pytest.raises(ValueError, match="two routes"):
        router(route("example.com", "/a"), route("EXAMPLE.com", "/a/"))


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
