"""A compressed response is another representation, and its fields say so; what must not be compressed is not."""

from __future__ import annotations

import pytest

from velocity_edge.config.middlewares.compress import Compress
from workers.http import Headers, Response
from workers.middleware.coding import Rules, Types, coded, may_code, not_modified, varied

RULES = Rules(Types(Compress(name="c", kind="compress").types), 512)
HTML = (b"content-type", b"text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"text/html", True),
        (b"TEXT/CSS; charset=utf-8", True),
        (b"application/json", True),
        (b"application/ld+json", True),
        (b"image/svg+xml", True),
        (b"text/event-stream", False),
        (b"image/png", False),
        (b"application/octet-stream", False),
        (b"text", False),
        (b"", False),
    ],
)
def test_types_of_the_default_list(content_type: bytes, expected: bool) -> None:
    assert (content_type in RULES.types) == expected


def test_an_event_stream_is_compressed_only_by_its_name() -> None:
    assert b"text/event-stream" in Types(["text/event-stream"])
    assert b"text/event-stream" not in Types(["*/*"])
    assert b"image/png" in Types(["*/*"])


@pytest.mark.parametrize(
    ("status", "headers", "length", "expected"),
    [
        (200, (HTML,), 512, True),
        (200, (HTML,), 511, False),
        (200, (HTML,), None, True),
        (404, (HTML,), 5000, True),
        (204, (HTML,), None, False),
        (206, (HTML,), 5000, False),
        (304, (HTML,), None, False),
        (200, (), 5000, False),
        (200, (HTML, (b"content-encoding", b"br")), 5000, False),
        (200, (HTML, (b"content-encoding", b"identity")), 5000, True),
        (200, (HTML, (b"content-range", b"bytes 0-1/2")), 5000, False),
        (200, (HTML, (b"cache-control", b"public, No-Transform")), 5000, False),
        (200, (HTML, (b"cache-control", b"public")), 5000, True),
    ],
)
def test_what_has_no_body_of_its_own_or_is_coded_stays(
    status: int, headers: Headers, length: int | None, expected: bool
) -> None:
    assert may_code(Response(status, headers, b""), RULES, length) == expected


def test_fields_of_the_compressed_response() -> None:
    before = (
        HTML,
        (b"etag", b'"1"'),
        (b"content-length", b"5000"),
        (b"accept-ranges", b"bytes"),
        (b"repr-digest", b"sha-256=:x:"),
        (b"content-md5", b"x"),
        (b"vary", b"origin"),
    )
    fields = [HTML, (b"etag", b'W/"1"'), (b"vary", b"origin"), (b"content-encoding", b"zstd")]
    assert coded(before, b"zstd", None) == [*fields, (b"vary", b"accept-encoding")]
    assert coded(before, b"zstd", 9) == [*fields, (b"content-length", b"9"), (b"vary", b"accept-encoding")]
    assert coded(((b"etag", b'W/"1"'),), b"gzip", None)[0] == (b"etag", b'W/"1"')
    assert not_modified(((b"etag", b'"1"'),)) == [(b"etag", b'W/"1"'), (b"vary", b"accept-encoding")]


@pytest.mark.parametrize(
    ("vary", "added"),
    [(b"Accept-Encoding", False), (b"origin, accept-encoding", False), (b"*", False), (b"x-accept-encoding", True)],
)
def test_vary_is_added_once(vary: bytes, added: bool) -> None:
    assert (len(varied([(b"vary", vary)])) == 2) == added
