"""What a site's middleware refuses gets the site's page for that status, and keeps its own fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.site import handler, header, write
from workers.http import Request, Response, plain
from workers.middleware.error_pages import with_error_pages
from workers.middleware.headers import Defaults
from workers.middleware.refusals import refusal
from workers.pipeline import Handler, Middleware, fold


class Refuse(Middleware):
    def __init__(self, status: int) -> None:
        self.status = status

    def wrap(self, handler: Handler) -> Handler:
        return lambda request: refusal(request, self.status, "", (b"retry-after", b"9"), (b"etag", b'"x"'))


def ask(root: Path, status: int, method: bytes = b"GET") -> Response:
    site = handler(root, error_pages={429: "errors/429.html", 404: "errors/404.html"})
    around = with_error_pages([Defaults(((b"server", b"edge"),)), Refuse(status)], site)
    response = fold(around, site).handle(Request(method, b"a.test", b"/"))
    assert isinstance(response, Response)
    assert header(response, b"server") == b"edge"
    return response


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for status in (404, 429):
        write(tmp_path / f"errors/{status}.html", f"<p>our {status}")
    return tmp_path


def test_a_refusal_gets_the_page_and_keeps_its_fields(root: Path) -> None:
    response = ask(root, 429)
    assert (response.status, response.body) == (429, b"<p>our 429")
    assert header(response, b"content-type") == b"text/html; charset=utf-8"
    assert header(response, b"content-length") == b"10"
    assert header(response, b"retry-after") == b"9"
    assert header(response, b"etag") is None, "of the line of text"
    assert ask(root, 429, b"HEAD").body is None
    assert ask(root, 403).body == plain(403).body, "there is no page for it"


def test_a_page_that_was_removed_is_replaced_by_a_line_of_text(root: Path) -> None:
    site = handler(root, error_pages={429: "errors/429.html"})
    (root / "errors/429.html").unlink()
    response = fold(with_error_pages([Defaults(()), Refuse(429)], site), site).handle(Request(b"GET", b"a", b"/"))
    assert isinstance(response, Response)
    assert response.body == b"Too Many Requests\n"


def test_sites_without_pages_or_middleware_cost_nothing(root: Path) -> None:
    around = [Defaults(()), Refuse(429)]
    assert with_error_pages(around, handler(root)) is around
    assert with_error_pages(around[:1], handler(root, error_pages={429: "errors/429.html"})) == around[:1]
    assert with_error_pages(around, lambda _: plain(200)) is around
