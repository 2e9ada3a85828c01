"""A page shows what the directory has, in the form and order that were asked for, and nothing of a name is markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.handlers.static.listing_page import Item, Look, look_of

ITEMS = [
    Item("b.txt", False, 2048, 200),
    Item("sub", True, 4096, 300),
    Item("a.txt", False, 5, 100),
    Item("C.bin", False, 3 * 2**30, 400),
]


class Links(HTMLParser):
    """The links and texts of a page, and every tag that it has."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name == "href"]


def page(look: Look, items: list[Item] = ITEMS, path: bytes = b"/a b/c/", cut: bool = False) -> bytes:
    return look.page(path, [look.row(item) for item in look.sorted(items)], cut)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (b"", ["sub", "C.bin", "a.txt", "b.txt"]),
        (b"sort=name&order=desc", ["sub", "b.txt", "a.txt", "C.bin"]),
        (b"sort=size", ["sub", "a.txt", "b.txt", "C.bin"]),
        (b"order=desc&sort=modified", ["sub", "C.bin", "b.txt", "a.txt"]),
        (b"sort=evil&order=evil", ["sub", "C.bin", "a.txt", "b.txt"]),
    ],
)
def test_directories_come_first_then_the_order_that_is_asked_for(query: bytes, names: list[str]) -> None:
    look = look_of(b"application/json", query)
    assert [one["name"] for one in orjson.loads(page(look))] == names


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "html"),
        (b"*/*", "html"),
        (b"application/json", "json"),
        (b"text/plain", "text"),
        (b"text/html, application/json", "html"),
        (b"Application/JSON, text/plain", "json"),
    ],
)
def test_the_client_chooses_the_form(accept: bytes | None, form: str) -> None:
    assert look_of(accept, b"").form == form


def test_there_are_few_different_pages() -> None:
    """Each is made and kept for itself, so a stranger must not be able to name many."""
    looks = {look_of(b"text/plain", b"sort=%d&order=%d&x=%d" % (n, n, n)) for n in range(100)}
    assert looks == {Look("text")}


def test_text_is_a_line_for_each_name() -> None:
    assert page(Look("text")).decode().splitlines() == [
        "1970-01-01T00:05:00Z              - sub/",
        "1970-01-01T00:06:40Z     3221225472 C.bin",
        "1970-01-01T00:01:40Z              5 a.txt",
        "1970-01-01T00:03:20Z           2048 b.txt",
    ]


def test_the_page_sorts_by_its_headings_and_leads_up() -> None:
    html = page(Look("html", "size"))
    found = Links(html)
    assert found.links[:3] == ["../../", "../", "./"], "the directories of the path"
    assert found.links[3:6] == ["?sort=name&order=asc", "?sort=size&order=desc", "?sort=modified&order=asc"]
    assert found.links[6:] == ["../", "./sub/", "./a.txt", "./b.txt", "./C.bin"]
    assert html.count(b'aria-sort="ascending"') == 1
    assert re.findall(rb"<td>([0-9.]+ [KMGT]?i?B)<td>", html) == [b"5 B", b"2.0 KiB", b"3.0 GiB"]
    assert "script" not in found.tags
    assert b"4 entries" in html
    assert b"../</a>" not in page(Look(), path=b"/").split(b"<tbody>")[1]


def test_a_page_that_is_cut_says_so() -> None:
    assert b"The first 4 entries; there are more." in page(Look(), cut=True)


def test_times_that_no_calendar_has_end_no_page() -> None:
    for modified_s in (-(2**62), 2**62, -1):
        for form in ("html", "text", "json"):
            assert page(Look(form), [Item("x", False, 1, modified_s)])  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_no_name_is_markup_and_its_link_leads_to_it(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    html = page(Look(), [Item(name, False, 1, 0)], path=b"/")
    found = Links(html)
    assert found.tags <= {"html", "meta", "title", "style", "h1", "a", "table", "thead", "tr", "th", "tbody", "td", "p"}
    assert unquote_to_bytes(found.links[-1].removeprefix("./")) == raw
    assert page(Look("text"), [Item(name, False, 1, 0)]).count(b"\n") == 1
