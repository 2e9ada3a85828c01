"""A file's Cache-Control is that of the first rule for its path, also in its coded form and when nothing changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.site import get, handler, header, site_section, write
from velocity_edge.config.section import all_problems
from workers.handlers.static.site import StaticHandler

RULES = [
    {"path": "/assets/**.css", "cache_control": "immutable"},
    {"path": "/assets/*", "cache_control": "max-age=60"},
    {"path": "*.html", "cache_control": "no-cache"},
    {"path": "/a+b(1).txt", "cache_control": "literal"},
    {"path": "/bare.txt", "cache_control": ""},
]


def site(root: Path) -> StaticHandler:
    for name in ("assets/a.css", "assets/deep/b.css", "assets/x.js", "assets/deep/x.js", "index.html", "sub/page.html"):
        write(root / name, "text")
    for name in ("a+b(1).txt", "aab(1).txt", "bare.txt", "xhtml", "assets/x.js.gz"):
        write(root / name, "text")
    return handler(root, cache_control="default", cache_rules=RULES)


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (b"/assets/a.css", b"immutable"),
        (b"/assets/deep/b.css", b"immutable"),
        (b"/assets/x.js", b"max-age=60"),
        (b"/assets/deep/x.js", b"default"),
        (b"/", b"no-cache"),
        (b"/sub/page.html", b"no-cache"),
        (b"/a+b(1).txt", b"literal"),
        (b"/aab(1).txt", b"default"),
        (b"/bare.txt", None),
        (b"/xhtml", b"default"),
    ],
)
def test_the_first_rule_that_matches_decides(tmp_path: Path, target: bytes, value: bytes | None) -> None:
    assert header(get(site(tmp_path), target), b"cache-control") == value


def test_coded_files_and_confirmations_have_the_value_of_the_file(tmp_path: Path) -> None:
    static = site(tmp_path)
    coded = get(static, b"/assets/x.js", (b"accept-encoding", b"gzip"))
    assert (header(coded, b"content-encoding"), header(coded, b"cache-control")) == (b"gzip", b"max-age=60")
    etag = header(coded, b"etag") or b""
    again = get(static, b"/assets/x.js", (b"accept-encoding", b"gzip"), (b"if-none-match", etag))
    assert (again.status, header(again, b"cache-control")) == (304, b"max-age=60")


def test_a_slow_pattern_is_refused(tmp_path: Path) -> None:
    section = site_section(tmp_path, cache_rules=[{"path": "*a" * 7, "cache_control": "x"}])
    assert [where for where, _ in all_problems(section)] == [("cache_rules", "0", "path")]
