"""A static site serves the files below its root by RFC 9110, and nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.support.site import LONG_AGO_S, Clock, directory, get, handler, header, site_section, write
from velocity_edge.http.requests import FileRange
from workers.handlers.static.files import SMALL_BYTES
from workers.handlers.static.site import missing
from workers.http import Response

LONG_AGO = b"Sun, 09 Sep 2001 01:46:40 GMT"
LATER = b"Sun, 09 Sep 2001 01:46:41 GMT"
EARLIER = b"Sun, 09 Sep 2001 01:46:39 GMT"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    write(site / "index.html", "<h1>home</h1>")
    write(site / "style.css", "0123456789")
    write(site / "docs/index.html", "<h1>docs</h1>")
    write(site / "empty/only.txt", "x")
    write(site / "big.bin", bytes(range(256)) * 1024)
    write(site / ".secret", "hidden")
    write(site / ".git/config", "hidden")
    write(site / ".well-known/security.txt", "Contact: x")
    write(tmp_path / "outside.txt", "outside")
    return site


def read(response: Response) -> bytes:
    """Return the body, from memory or from the file."""
    body = response.body
    if body is None:
        return b""
    if isinstance(body, bytes):
        return body
    if isinstance(body, FileRange):
        return os.pread(body.file.fd, body.length, body.offset)

    async def collect(chunks: AsyncIterator[bytes]) -> bytes:
        return b"".join([chunk async for chunk in chunks])

    return asyncio.run(collect(body))


# --- which file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (b"/", b"<h1>home</h1>"),
        (b"/index.html", b"<h1>home</h1>"),
        (b"/docs/", b"<h1>docs</h1>"),
        (b"/style.css?v=3", b"0123456789"),
        (b"/style%2Ecss", b"0123456789"),
        (b"/.well-known/security.txt", b"Contact: x"),
    ],
)
def test_a_path_is_decoded_once_and_names_a_file(root: Path, target: bytes, body: bytes) -> None:
    response = get(handler(root), target)
    assert (response.status, read(response)) == (200, body)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/missing", 404),
        (b"/style.css/", 404),
        (b"/style.css/x", 404),
        (b"/empty/", 404),
        (b"/.secret", 404),
        (b"/.git/config", 404),
        (b"/../outside.txt", 404),
        (b"/%2e%2e/outside.txt", 404),
        (b"/docs/../../outside.txt", 404),
        (b"/docs%2findex.html", 404),
        (b"//outside.txt", 404),
        (b"/docs//index.html", 404),
        (b"/%252e%252e/outside.txt", 404),
        (b"/a%00b", 400),
        (b"/a%", 400),
        (b"/a%4", 400),
        (b"/a%+1", 400),
        (b"*", 400),
        (b"", 400),
        (b"/" + b"a" * 300, 404),
        (b"/" + b"a/" * 3000, 404),
    ],
)
def test_no_path_leaves_the_root_or_serves_hidden_files(root: Path, target: bytes, status: int) -> None:
    assert get(handler(root), target).status == status
    if status == 404:  # a fallback must not turn a refused path into a page with another meaning: it is the fallback
        assert get(handler(root, hidden_files=True), b"/../outside.txt").status == 404


def test_links_work_inside_the_root_only(root: Path) -> None:
    (root / "inside").symlink_to("style.css")
    (root / "out").symlink_to("../outside.txt")
    (root / "absolute").symlink_to(root / "style.css")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "proc").symlink_to("/proc/self/cwd")
    static = handler(root)
    assert read(get(static, b"/inside")) == b"0123456789"
    for target in (b"/out", b"/absolute", b"/up/outside.txt", b"/loop", b"/proc", b"/up/"):
        assert get(static, target).status == 404


def test_special_files_are_neither_served_nor_waited_for(root: Path) -> None:
    os.mkfifo(root / "fifo")
    assert get(handler(root), b"/fifo").status == 404


def test_a_directory_without_slash_is_redirected_with_its_query(root: Path) -> None:
    response = get(handler(root), b"/docs?a=b")
    assert (response.status, header(response, b"location")) == (308, b"/docs/?a=b")


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"get"])
def test_other_methods_get_405_with_allow(root: Path, method: bytes) -> None:
    response = get(handler(root), b"/", method=method)
    assert (response.status, header(response, b"allow")) == (405, b"GET, HEAD")


def test_head_has_the_fields_of_get_and_no_body(root: Path) -> None:
    for target in (b"/style.css", b"/big.bin", b"/missing"):
        whole, head = get(handler(root), target), get(handler(root), target, method=b"HEAD")
        assert head.body is None
        assert (head.status, list(head.headers)) == (whole.status, list(whole.headers))


def test_a_small_file_is_sent_from_memory_and_a_large_one_from_its_descriptor(root: Path) -> None:
    write(root / "edge", b"x" * SMALL_BYTES)
    static = handler(root)
    assert isinstance(get(static, b"/edge").body, bytes)
    large = get(static, b"/big.bin")
    assert isinstance(large.body, FileRange)
    assert read(large) == bytes(range(256)) * 1024


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", b"text/html; charset=utf-8"),
        ("a.JS", b"text/javascript; charset=utf-8"),
        ("a.json", b"application/json"),
        ("a.png", b"image/png"),
        ("a.svg", b"image/svg+xml; charset=utf-8"),
        ("a.wasm", b"application/wasm"),
        ("a.unheard-of", b"application/octet-stream"),
        ("noextension", b"application/octet-stream"),
    ],
)
def test_the_media_type_follows_the_extension(root: Path, name: str, kind: bytes) -> None:
    write(root / name, "x")
    assert header(get(handler(root), b"/" + name.encode()), b"content-type") == kind


# --- changes ---------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_noticed_within_a_second(root: Path) -> None:
    clock = Clock()
    static = handler(root, clock)
    first = get(static, b"/style.css")
    write(root / "style.css", "changed", LONG_AGO_S + 5)
    assert get(static, b"/style.css").body == first.body
    clock.now_s += 1
    second = get(static, b"/style.css")
    assert second.body == b"changed"
    assert header(second, b"etag") != header(first, b"etag")
    (root / "style.css").unlink()
    clock.now_s += 1
    assert get(static, b"/style.css").status == 404


def test_a_file_replaced_by_a_link_out_of_the_root_is_not_served(root: Path) -> None:
    clock = Clock()
    static = handler(root, clock)
    assert get(static, b"/style.css").status == 200
    (root / "style.css").unlink()
    (root / "style.css").symlink_to("../outside.txt")
    clock.now_s += 1
    assert get(static, b"/style.css").status == 404


def test_a_file_whose_time_stamp_may_hide_a_change_is_not_kept(root: Path) -> None:
    clock = Clock(LONG_AGO_S + 0.01)
    static = handler(root, clock)
    assert get(static, b"/style.css").body == b"0123456789"
    write(root / "style.css", "9876543210")  # same size, same time stamp
    assert get(static, b"/style.css").body == b"9876543210"


def test_the_cache_is_bounded_in_entries_and_bytes(root: Path) -> None:
    for index in range(300):
        write(root / f"{index}.txt", b"x" * 1000)
    static = handler(root)
    store = static._files
    store._max_entries, store._max_bytes = 100, 50_000
    for index in range(300):
        get(static, b"/%d.txt" % index)
        assert len(store._entries) <= 50
        assert store._bytes == sum(entry.weight_bytes for entry in store._entries.values()) <= 50_000


# --- conditions and ranges -------------------------------------------------------------------------------------------


def etag_of(root: Path) -> bytes:
    etag = header(get(handler(root), b"/style.css"), b"etag")
    assert etag is not None
    assert etag.startswith(b'"')
    return etag


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"if-none-match", b"ETAG")], 304),
        ([(b"if-none-match", b'"other", W/ETAG')], 304),
        ([(b"if-none-match", b"*")], 304),
        ([(b"if-none-match", b'"other"')], 200),
        ([(b"if-none-match", b'"other"'), (b"if-modified-since", LATER)], 200),  # the date does not count then
        ([(b"if-modified-since", LONG_AGO)], 304),
        ([(b"if-modified-since", b"Sunday, 09-Sep-01 01:46:40 GMT")], 304),
        ([(b"if-modified-since", b"Sun Sep  9 01:46:40 2001")], 304),
        ([(b"if-modified-since", EARLIER)], 200),
        ([(b"if-modified-since", b"yesterday")], 200),
        ([(b"if-match", b"ETAG")], 200),
        ([(b"if-match", b"W/ETAG")], 412),
        ([(b"if-match", b'"other"')], 412),
        ([(b"if-match", b"*")], 200),
        ([(b"if-unmodified-since", LONG_AGO)], 200),
        ([(b"if-unmodified-since", EARLIER)], 412),
        ([(b"if-match", b"ETAG"), (b"if-unmodified-since", EARLIER)], 200),
        ([(b"if-match", b'"other"'), (b"if-none-match", b"ETAG")], 412),
        ([(b"if-match", b"ETAG"), (b"if-none-match", b"ETAG")], 304),
        ([(b"range", b"bytes=0-1"), (b"if-range", b"ETAG")], 206),
        ([(b"range", b"bytes=0-1"), (b"if-range", b"W/ETAG")], 200),
        ([(b"range", b"bytes=0-1"), (b"if-range", LONG_AGO)], 206),
        ([(b"range", b"bytes=0-1"), (b"if-range", LATER)], 200),
        ([(b"range", b"bytes=0-1"), (b"if-none-match", b"ETAG")], 304),
        ([(b"range", b"bytes=99-"), (b"if-match", b'"other"')], 412),
        ([(b"if-range", b"ETAG")], 200),
    ],
)
def test_preconditions_are_evaluated_in_the_order_of_rfc_9110(
    root: Path, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    etag = etag_of(root)
    filled = [(name, value.replace(b"ETAG", etag)) for name, value in headers]
    response = get(handler(root), b"/style.css", *filled)
    assert response.status == status
    if status == 304:
        assert response.body is None
        assert header(response, b"etag") == etag
        assert header(response, b"content-length") is None


def test_a_date_is_not_a_strong_validator_within_its_second(root: Path) -> None:
    ranged = [(b"range", b"bytes=0-1"), (b"if-range", LONG_AGO)]
    assert get(handler(root, Clock(LONG_AGO_S + 0.9)), b"/style.css", *ranged).status == 200
    assert get(handler(root, Clock(LONG_AGO_S + 1.0)), b"/style.css", *ranged).status == 206


@pytest.mark.parametrize(
    ("value", "status", "content_range", "body"),
    [
        (b"bytes=0-3", 206, b"bytes 0-3/10", b"0123"),
        (b"bytes=5-", 206, b"bytes 5-9/10", b"56789"),
        (b"bytes=-3", 206, b"bytes 7-9/10", b"789"),
        (b"bytes=-30", 206, b"bytes 0-9/10", b"0123456789"),
        (b"bytes=8-99", 206, b"bytes 8-9/10", b"89"),
        (b"bytes=0-0,-1", 206, b"bytes 0-9/10", b"0123456789"),  # nearer than a part's head: merged
        (b"bytes=10-", 416, b"bytes */10", b"Range Not Satisfiable\n"),
        (b"bytes=-0", 416, b"bytes */10", b"Range Not Satisfiable\n"),
        (b"bytes=3-2", 200, None, b"0123456789"),
        (b"bytes=", 200, None, b"0123456789"),
        (b"bytes=a-b", 200, None, b"0123456789"),
        (b"lines=0-3", 200, None, b"0123456789"),
        (b"bytes=0-1," * 40 + b"2-3", 200, None, b"0123456789"),
    ],
)
def test_ranges(root: Path, value: bytes, status: int, content_range: bytes | None, body: bytes) -> None:
    response = get(handler(root), b"/style.css", (b"range", value))
    assert (response.status, header(response, b"content-range"), read(response)) == (status, content_range, body)


@pytest.mark.parametrize("target", [b"/big.bin", b"/medium.txt"])
def test_several_ranges_are_parts_in_the_order_of_the_request(root: Path, target: bytes) -> None:
    write(root / "medium.txt", bytes(range(256)) * 8)
    response = get(handler(root), target, (b"range", b"bytes=1000-1009,0-4,-3"))
    assert response.status == 206
    kind = header(response, b"content-type")
    assert kind is not None
    boundary = kind.removeprefix(b"multipart/byteranges; boundary=")
    body = read(response)
    assert header(response, b"content-length") == b"%d" % len(body)
    parts = body.split(b"\r\n--" + boundary)
    assert [part[:4] for part in parts] == [b"", b"\r\nCo", b"\r\nCo", b"\r\nCo", b"--\r\n"]
    whole = (root / target.decode()[1:]).read_bytes()
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]] == [whole[1000:1010], whole[:5], whole[-3:]]


# --- precompressed, listings, fallback, error pages ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (b"gzip, br, zstd", b"br"),
        (b"gzip, zstd", b"zstd"),
        (b"gzip;q=1.0, br;q=0.5", b"gzip"),
        (b"br;q=0, *", b"zstd"),
        (b"x-gzip", b"gzip"),
        (b"identity", None),
        (b"gzip;q=0.5, identity", None),
        (b"deflate", None),
        (b"*;q=0", None),
        (b"br;q=nonsense", None),
        (b"", None),
    ],
)
def test_the_best_acceptable_sidecar_is_served(root: Path, accept: bytes, coding: bytes | None) -> None:
    for suffix in ("br", "zst", "gz"):
        write(root / f"style.css.{suffix}", suffix)
    response = get(handler(root), b"/style.css", (b"accept-encoding", accept))
    expected = {b"br": b"br", b"zstd": b"zst", b"gzip": b"gz", None: b"0123456789"}[coding]
    assert (header(response, b"content-encoding"), read(response)) == (coding, expected)
    assert header(response, b"content-type") == b"text/css; charset=utf-8"
    assert header(response, b"vary") == b"accept-encoding"


def test_each_coding_has_its_own_etag_and_ranges(root: Path) -> None:
    write(root / "style.css.br", "BROTLI")
    static = handler(root)
    plain, coded = get(static, b"/style.css"), get(static, b"/style.css", (b"accept-encoding", b"br"))
    assert header(plain, b"etag") != header(coded, b"etag")
    part = get(static, b"/style.css", (b"accept-encoding", b"br"), (b"range", b"bytes=1-2"))
    assert (part.status, read(part), header(part, b"content-encoding")) == (206, b"RO", b"br")


def test_a_sidecar_without_its_file_or_disabled_is_not_served(root: Path) -> None:
    write(root / "gone.css.br", "x")
    write(root / "style.css.br", "x")
    assert get(handler(root), b"/gone.css", (b"accept-encoding", b"br")).status == 404
    off = get(handler(root, precompressed=False), b"/style.css", (b"accept-encoding", b"br"))
    assert (read(off), header(off, b"vary")) == (b"0123456789", None)


def test_listings_are_off_by_default_and_escape_names(root: Path) -> None:
    write(root / 'empty/"><script>.txt', "x")
    write(root / "empty/.hidden", "x")
    assert get(handler(root), b"/empty/").status == 404
    static = handler(root, listings=True)
    page = get(static, b"/empty/")
    assert page.status == 200
    assert b"<script>" not in read(page)
    assert b".hidden" not in read(page)
    assert b"only.txt" in read(page)
    listed = orjson.loads(read(get(static, b"/empty/", (b"accept", b"application/json"))))
    assert [item["name"] for item in listed] == ['"><script>.txt', "only.txt"]
    assert get(static, b"/docs/").body == b"<h1>docs</h1>"


def test_the_fallback_of_a_single_page_application_is_served_for_every_path(root: Path) -> None:
    static = handler(root, spa_fallback="index.html")
    response = get(static, b"/users/7")
    assert (response.status, read(response)) == (200, b"<h1>home</h1>")
    assert get(static, b"/style.css").body == b"0123456789"
    assert get(static, b"/../outside.txt").status == 404
    (root / "index.html").unlink()
    assert get(handler(root, spa_fallback="index.html"), b"/users/7").status == 404


def test_error_pages_keep_the_status_and_its_fields(root: Path) -> None:
    write(root / "errors/404.html", "<h1>not here</h1>")
    write(root / "errors/416.html", "<h1>no such range</h1>")
    static = handler(root, error_pages={404: "/errors/404.html", 416: "errors/416.html"})
    not_found = get(static, b"/missing")
    assert (not_found.status, read(not_found)) == (404, b"<h1>not here</h1>")
    assert header(not_found, b"etag") is None
    unsatisfiable = get(static, b"/style.css", (b"range", b"bytes=99-"))
    assert header(unsatisfiable, b"content-range") == b"bytes */10"
    present = site_section(root, error_pages={404: "/errors/404.html"}, spa_fallback="/style.css")
    assert missing(directory(root), present, Clock()) == []
    absent = site_section(root, error_pages={404: "/nowhere.html"}, spa_fallback="docs")
    assert missing(directory(root), absent, Clock()) == [
        "nowhere.html: No such file or directory",
        "docs: Is a directory",
    ]


def test_cache_control_is_sent_with_200_206_and_304(root: Path) -> None:
    static = handler(root, cache_control="public, max-age=60")
    etag = etag_of(root)
    for headers in ([], [(b"range", b"bytes=0-1")], [(b"if-none-match", etag)]):
        assert header(get(static, b"/style.css", *headers), b"cache-control") == b"public, max-age=60"
    assert header(get(static, b"/missing"), b"cache-control") is None
