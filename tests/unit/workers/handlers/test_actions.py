"""Each type of action answers as configured; no request chooses where a redirect leads, or what JSON means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Clock, directory, write
from velocity_edge.config.content import Content
from velocity_edge.config.routes import routes_of
from velocity_edge.config.section import all_problems
from velocity_edge.config.server import Server
from velocity_edge.errors import ConfigError
from workers.handlers.build import HandlerContext, handler_of
from workers.http import Request, Response
from workers.pipeline import Handler


def handler(action: dict[str, Any], path: str = "/", root: Path | None = None) -> Handler:
    content = Content.model_validate(
        {"routes": [{"match": {"path": path}, "action": action}], "templates_dir": root and str(root)}, strict=False
    )
    assert not list(all_problems(content))
    context = HandlerContext(Clock())
    roots = {str(root): directory(root)} if root else {}
    (route,) = routes_of(content)
    lease = context.resources.lease()
    return handler_of(route, content, context, lease, roots=roots, server=Server(), reads_body=False)


def answer(handle: Handler, target: bytes = b"/", *, method: bytes = b"GET", **params: str) -> Response:
    request = Request(method, b"a.test", target, ((b"x-a", b"<b>"),), peer=(b"\x7f\0\0\1", 1))
    request.params = params
    response = handle(request)
    assert isinstance(response, Response)
    return response


def body(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    assert dict(response.headers)[b"content-length"] == b"%d" % len(response.body)
    return response.body


# --- text and JSON


def test_text_and_json_have_their_media_types() -> None:
    text = answer(handler({"type": "text", "body": "hi", "status": 201}))
    assert (text.status, body(text), dict(text.headers)[b"content-type"]) == (201, b"hi", b"text/plain; charset=utf-8")
    json = answer(handler({"type": "json", "body": {"a": [1, None, "x"]}, "headers": {"X-B": "1"}}))
    assert (json.status, body(json)) == (200, b'{"a":[1,null,"x"]}')
    assert (dict(json.headers)[b"content-type"], dict(json.headers)[b"x-b"]) == (b"application/json", b"1")


def test_their_parameters_are_encoded_as_part_of_a_text() -> None:
    json = handler({"type": "json", "body": {"id": "{id}", "n": ["<{id}> {other} {"]}}, "/u/{id}")
    assert body(answer(json, id='"}{id}')) == b'{"id":"\\"}{id}","n":["<\\"}{id}> {other} {"]}'
    text = handler({"type": "text", "body": "hello {name}, {name}{ {x}"}, "/{name}")
    assert body(answer(text, name="{name} ü")) == "hello {name} ü, {name} ü{ {x}".encode()


# --- redirects


@pytest.mark.parametrize(
    ("action", "path", "target", "params", "location"),
    [
        ({"to": "https://b.test"}, "/", b"/x?q=1", {}, b"https://b.test?q=1"),
        ({"to": "https://b.test", "keep_path": True}, "/", b"/x/y?q", {}, b"https://b.test/x/y?q"),
        ({"to": "/new", "keep_path": True, "keep_query": False}, "/old", b"/old/a%20b/?q", {}, b"/new/a%20b/"),
        ({"to": "/new", "keep_path": True}, "/old", b"/x/../%6fld//a", {}, b"/new/a"),
        ({"to": "/new?a=1"}, "/old", b"/old?b=2", {}, b"/new?a=1&b=2"),
        ({"to": "/n/{id}"}, "/o/{id}", b"/", {"id": "a/b c?"}, b"/n/a%2Fb%20c%3F"),
        ({"to": "/n/{id}"}, "/o/{id}", b"/", {"id": ".."}, b"/n/%2E%2E"),
        ({"to": "/n/{rest}"}, "/o/{rest...}", b"/", {"rest": "a/../c\r\nx: y"}, b"/n/a/%2E%2E/c%0D%0Ax%3A%20y"),
        ({"to": "/{rest...}"}, "/o/{rest...}", b"/", {"rest": "//evil.test"}, b"/evil.test"),
        ({"to": "/{id}"}, "/o/{id}", b"/", {"id": "\\evil.test"}, b"/evil.test"),
        ({"to": "/", "keep_path": True}, "/o", b"/o//evil.test", {}, b"/evil.test"),
        ({"to": "/", "keep_path": True}, "/", b"/\\evil.test", {}, b"/evil.test"),
    ],
)
def test_redirects(action: dict[str, Any], path: str, target: bytes, params: dict[str, str], location: bytes) -> None:
    response = answer(handler({"type": "redirect", **action}, path), target, **params)
    assert (response.status, dict(response.headers)[b"location"]) == (308, location)


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("//evil.test", "must be a path such as"),
        ("/\\evil.test", "must be a path such as"),
        ("ftp://a", "must be a path such as"),
        ("https://{id}/", "the host of a redirect cannot come from the request"),
        ("https://a@b/", "the host of a redirect cannot come from the request"),
        ("/{other}", "parameters of /{id} are id"),
        ("/a b", "printable ASCII"),
    ],
)
def test_a_redirect_that_could_lead_anywhere_is_refused(to: str, said: str) -> None:
    content = Content.model_validate(
        {"routes": [{"match": {"path": "/{id}"}, "action": {"type": "redirect", "to": to}}]}
    )
    ((where, text),) = all_problems(content)
    assert where == ("routes", "0", "action", "to")
    assert said in text


# --- one file


def test_one_file_answers_every_path(tmp_path: Path) -> None:
    write(tmp_path / "a page.html", "page")
    write(tmp_path / "other", "other")
    file = handler({"type": "file", "path": str(tmp_path / "a page.html"), "headers": {"X-A": "1"}}, root=tmp_path)
    for target in (b"/", b"/other", b"/x/../.."):
        response = answer(file, target)
        assert (response.status, body(response)) == (200, b"page")
    assert dict(response.headers)[b"content-type"].startswith(b"text/html")
    assert dict(response.headers)[b"x-a"] == b"1"
    ranged = file(Request(b"GET", b"a", b"/", ((b"range", b"bytes=1-2"),)))
    assert isinstance(ranged, Response)
    assert (ranged.status, ranged.body) == (206, b"ag")
    assert answer(file, method=b"POST").status == 405


def test_a_file_with_another_status_is_always_whole(tmp_path: Path) -> None:
    write(tmp_path / "down.html", "page")
    file = handler({"type": "static_file", "path": str(tmp_path / "down.html"), "status": 503}, root=tmp_path)
    response = file(Request(b"GET", b"a", b"/", ((b"range", b"bytes=1-2"), (b"if-none-match", b"*"))))
    assert isinstance(response, Response)
    assert (response.status, response.body) == (503, b"page")


def test_a_file_that_is_missing_is_refused_when_the_revision_is_prepared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none: No such file"):
        handler({"type": "file", "path": str(tmp_path / "none")}, root=tmp_path)
