"""A request goes to the exact host before the wildcard before the default, and there to the longest prefix."""

from __future__ import annotations

import pytest

from workers.http import Request, Response, host_of
from workers.serve.router import Route, Router


def route(host: str, prefix: str = "/") -> Route:
    return Route(host, prefix, lambda request: Response(200, ((b"route", f"{host}{prefix}".encode()),)))


def answer(router: Router, authority: bytes, target: bytes = b"/") -> tuple[int, bytes | None]:
    request = Request(b"GET", authority, target)
    response = router(request)(request)
    assert isinstance(response, Response)
    return response.status, next((value for name, value in response.headers if name == b"route"), None)


def test_hosts() -> None:
    router = Router([route("example.com"), route("*.example.com"), route("*"), route("::1")])
    assert answer(router, b"example.com") == (200, b"example.com/")
    assert answer(router, b"EXAMPLE.com.:4433") == (200, b"example.com/")
    assert answer(router, b"a.example.com:443") == (200, b"*.example.com/")
    assert answer(router, b"a.b.example.com") == (200, b"*/")
    assert answer(router, b"[::1]:4433") == (200, b"::1/")
    assert answer(router, b"other") == (200, b"*/")
    assert answer(router, b".example.com") == (200, b"*/")


def test_a_host_without_site_is_misdirected_and_a_path_without_route_not_found() -> None:
    router = Router([route("example.com", "/app")])
    assert answer(router, b"other.example")[0] == 421
    assert answer(router, b"example.com", b"/")[0] == 404


def test_the_longest_prefix_of_whole_segments_wins() -> None:
    router = Router([route("*"), route("*", "/api"), route("*", "/api/v2/")])
    assert answer(router, b"x", b"/api") == (200, b"*/api")
    assert answer(router, b"x", b"/api/v1?q=/api/v2/") == (200, b"*/api")
    assert answer(router, b"x", b"/api/v2/users") == (200, b"*/api/v2/")
    assert answer(router, b"x", b"/apix") == (200, b"*/")


def test_two_routes_for_the_same_thing_are_an_error() -> None:
    with pytest.raises(ValueError, match="two routes"):
        Router([route("example.com", "/a"), route("EXAMPLE.com", "/a/")])


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
