"""`kind: headers` changes what it names, in its order, and nothing else; responses may still be shared."""

from __future__ import annotations

from typing import Any

from velocity_edge.config.middlewares.headers import Headers
from workers.http import Request, Response
from workers.middleware.edit_headers import EditHeaders
from workers.pipeline import fold


def section(**changes: Any) -> Headers:
    return Headers.model_validate({"name": "h", "kind": "headers", **changes})


def answered(changed: Headers, *own: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    response = EditHeaders(changed).wrap(lambda request: Response(200, own))(Request(b"GET", b"a", b"/"))
    assert isinstance(response, Response)
    return list(response.headers)


def test_fields_of_a_response_are_removed_set_added_and_defaulted() -> None:
    changed = section(
        response={"remove": "X-Powered-By", "set": {"A": "1"}, "add": {"Vary": "b"}, "default": {"C": "3", "D": "4"}}
    )
    own = ((b"x-powered-by", b"php"), (b"a", b"0"), (b"vary", b"a"), (b"d", b"own"))
    assert answered(changed, *own) == [
        (b"vary", b"a"),
        (b"d", b"own"),
        (b"a", b"1"),
        (b"vary", b"b"),
        (b"c", b"3"),
    ]


def test_fields_of_a_request_are_changed_for_the_upstream_alone() -> None:
    changed = section(request={"remove": "cookie", "set": {"X-User": "me"}, "add": {"x-tag": "t"}})
    request = Request(b"GET", b"a", b"/", ((b"cookie", b"c"), (b"x-user", b"forged")))
    request.upstream_fields.append((b"x-user", b"of an outer middleware"))
    EditHeaders(changed).wrap(lambda request: Response(200))(request)
    assert request.upstream_drop == [b"cookie", b"x-user"]
    assert request.upstream_fields == [(b"x-user", b"me"), (b"x-tag", b"t")]
    assert request.headers == ((b"cookie", b"c"), (b"x-user", b"forged"))


def test_responses_inside_may_be_shared() -> None:
    assert fold([EditHeaders(section())], lambda request: Response(200, shared=True)).may_share
