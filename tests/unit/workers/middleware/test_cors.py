"""A page may read a response only if its origin is in the list; no origin is reflected otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from velocity_edge.config.middlewares.cors import Cors
from velocity_edge.config.section import all_problems
from workers.http import Request, Response
from workers.middleware.cors import CrossOrigin

APP = b"https://app.example.com"


def cors(**keys: Any) -> Cors:
    return Cors.model_validate({"name": "cors", "kind": "cors", "origins": [APP.decode()], **keys})


def ask(section: Cors, origin: bytes | None, method: bytes = b"GET", **fields: bytes) -> tuple[int, dict[bytes, bytes]]:
    headers = [(name.replace("_", "-").encode(), value) for name, value in fields.items()]
    if origin is not None:
        headers.append((b"origin", origin))
    own = ((b"access-control-allow-origin", b"https://upstream.example"), (b"vary", b"accept"))
    response = CrossOrigin(section).wrap(lambda _: Response(200, own, b"x"))(
        Request(method, b"api.example.com", b"/", headers)
    )
    assert isinstance(response, Response)
    found: dict[bytes, bytes] = {}
    for name, value in response.headers:
        found[name] = found[name] + b", " + value if name in found else value
    return response.status, found


def test_a_permitted_origin_may_read() -> None:
    status, fields = ask(cors(expose=["X-Total"], credentials=True), APP)
    assert status == 200
    assert fields == {
        b"access-control-allow-origin": APP,
        b"access-control-allow-credentials": b"true",
        b"access-control-expose-headers": b"x-total",
        b"vary": b"accept, origin",
    }


@pytest.mark.parametrize(
    "origin", [None, b"https://evil.example", b"null", b"", b"http://app.example.com", APP + b":1"]
)
def test_others_get_no_permission_also_not_that_of_an_upstream(origin: bytes | None) -> None:
    status, fields = ask(cors(credentials=True), origin)
    assert (status, fields) == (200, {b"vary": b"accept, origin"})


def test_every_origin_is_a_star_and_does_not_vary() -> None:
    _, fields = ask(cors(origins="*"), b"https://evil.example")
    assert fields == {b"access-control-allow-origin": b"*", b"vary": b"accept"}


@pytest.mark.parametrize(
    ("origin", "permitted"),
    [
        (b"https://a.example.com", True),
        (b"https://a.b.example.com", True),
        (b"https://example.com", False),
        (b"https://.example.com", False),
        (b"https://evilexample.com", False),
        (b"https://evil.com/.example.com", False),
        (b"https://evil.com:1.example.com", False),
        (b"https://user@a.example.com", False),
        (b"https://a.example.com.evil.com", False),
        (b"https://a.example.com:8443", False),
        (b"http://a.example.com", False),
        (b"https://a.example.com\n", False),
    ],
)
def test_subdomains_are_whole_labels(origin: bytes, permitted: bool) -> None:
    section = cors(origins=["https://*.example.com"])
    assert CrossOrigin(section).permits(origin) == permitted
    assert (ask(section, origin)[1].get(b"access-control-allow-origin") == origin) == permitted


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_other_bytes_are_reflected(origin: bytes) -> None:
    section = cors(origins=["https://*.example.com", APP.decode()], credentials=True)
    value = ask(section, origin)[1].get(b"access-control-allow-origin")
    assert value is None or (value == origin and origin.endswith(b".example.com"))


def preflight(section: Cors, origin: bytes, method: bytes = b"PUT", headers: bytes = b"") -> dict[bytes, bytes]:
    more = {"access_control_request_headers": headers} if headers else {}
    status, fields = ask(section, origin, b"OPTIONS", access_control_request_method=method, **more)
    assert status == 204
    assert fields.pop(b"vary") == b"origin, access-control-request-method, access-control-request-headers"
    return {name.removeprefix(b"access-control-"): value for name, value in fields.items()}


def test_a_preflight_is_answered_without_the_handler() -> None:
    section = cors(methods=["GET", "PUT"], headers=["Content-Type"], max_age="1h", credentials=True)
    assert preflight(section, APP) == {
        b"allow-origin": APP,
        b"allow-credentials": b"true",
        b"allow-methods": b"GET, PUT",
        b"allow-headers": b"content-type",
        b"max-age": b"3600",
    }
    assert preflight(section, b"https://evil.example") == {}


def test_all_headers_are_those_that_are_asked_for_if_they_are_names() -> None:
    section = cors(headers="*")
    assert preflight(section, APP, headers=b"authorization,x-a")[b"allow-headers"] == b"authorization,x-a"
    for bad in (b"a b", b"a;b", b"a,," + b"x" * 3000, b"a" * 3000):
        assert b"allow-headers" not in preflight(section, APP, headers=bad)


def test_options_that_is_no_preflight_reaches_the_handler() -> None:
    assert ask(cors(), APP, b"OPTIONS")[0] == 200


def test_what_would_let_every_page_act_as_its_reader_is_refused() -> None:
    for origin in ("*", "null"):
        assert [where for where, _ in all_problems(cors(origins=[origin], credentials=True))] == [("origins", "0")]
    assert [where for where, _ in all_problems(cors(expose="*", credentials=True))] == [("expose",)]
    for bad in ("example.com", "https://example.com/", "https://*", "https://*example.com", "https://a.*.com", ""):
        with pytest.raises(ValidationError, match="cannot use"):
            cors(origins=[bad])
    assert cors(origins=["HTTPS://App.Example.com:443"]).origins == ["https://app.example.com"]
