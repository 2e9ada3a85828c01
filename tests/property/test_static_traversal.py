"""For any path and any links in the site: no byte of a file outside the root is ever sent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.site import Clock, get, handler, write
from velocity_edge.http.requests import FileRange
from workers.handlers.static.site import StaticHandler

SECRET = b"this lies outside of the root"


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[StaticHandler, Path]]:
    top = Path(tempfile.mkdtemp(prefix="ve-traversal-"))
    root = top / "site"
    write(root / "index.html", "inside")
    write(root / "a/b/c.txt", "inside")
    for place in (top, top / "a", top / "site-too"):
        write(place / "secret", SECRET)
        write(place / "index.html", SECRET)
    for name, to in {
        "up": "..",
        "a/up": "../..",
        "a/b/up2": "../../..",
        "abs": str(top),
        "abs-secret": str(top / "secret"),
        "secret-link": "../secret",
        "sibling": "../site-too",
        "cwd": "/proc/self/cwd",
        "rootfd": "/proc/self/root",
        "inside": "a/b",
        "round": "../site/a",
        "self": ".",
    }.items():
        (root / name).symlink_to(to)
    yield handler(root, Clock(), listings=True, hidden_files=True), top
    shutil.rmtree(top)


#: Existing names and links, and "..".
_THERE = (
    *("..", ".", "a", "b", "up", "up2", "abs", "abs-secret", "secret-link", "sibling", "cwd", "rootfd", "inside"),
    *("round", "self", "secret", "c.txt", "index.html"),
)
#: Paths that double decoding, other slashes or empty segments could produce.
_ODD = (
    *("", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "..%2f", "..%5c", "..\\", "%00", "..%00", "..;", "%c0%ae%c0%ae"),
    *("\u2025", "~", "%2f", "%2fetc%2fpasswd", "site-too", "site", "tmp", "proc", "etc", "passwd"),
)


def check(static: StaticHandler, target: bytes) -> None:
    """No byte from outside, whatever the status."""
    response = get(static, target)
    body = response.body
    if isinstance(body, FileRange):
        body = os.pread(body.file.fd, body.length, body.offset)
    assert response.status in (200, 308, 400, 404), target
    if response.status == 200:
        assert isinstance(body, bytes)
        # A listing inside the root names the links, nothing more.
        assert body == b"inside" or body.startswith(b"<!doctype html>"), target
        assert b'"./secret"' not in body, target
    if response.status == 308:
        location = dict(response.headers)[b"location"]
        assert location.startswith(b"/"), target
        assert not location.startswith(b"//"), target


def test_no_path_of_up_to_three_names_leaves_the_root(site: tuple[StaticHandler, Path]) -> None:
    static, _ = site
    for length in (1, 2, 3):
        for names in product(_THERE, repeat=length):
            check(static, b"/" + "/".join(names).encode())


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(_THERE + _ODD), max_size=8), st.sampled_from(("", "/", "/secret", "/index.html")))
def test_no_unusual_path_leaves_the_root(site: tuple[StaticHandler, Path], segments: list[str], end: str) -> None:
    static, _ = site
    check(static, ("/" + "/".join(segments) + end).encode())


@given(st.binary(max_size=80))
def test_any_path_bytes_get_a_response(site: tuple[StaticHandler, Path], path: bytes) -> None:
    static, _ = site
    for target in (path, b"/" + path):
        assert get(static, target).status in (200, 308, 400, 404)


def test_plain_open_follows_the_links_out_of_the_root(site: tuple[StaticHandler, Path]) -> None:
    """The control: plain open() reads the secret through these very links."""
    _, top = site
    root = top / "site"
    for name in ("up/secret", "a/up/secret", "abs/secret", "abs-secret", "secret-link", "sibling/secret"):
        assert (root / name).read_bytes() == SECRET
    static, _ = site
    assert get(static, b"/inside/c.txt").body == b"inside"
    assert get(static, b"/self/a/b/c.txt").body == b"inside"
