"""A client gets bytes that its decoder turns into what the handler sent, or those bytes themselves."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from velocity_edge.config.middlewares.compress import Compress
from velocity_edge.http.requests import FileRange
from workers.handlers.static.beneath import Descriptor
from workers.http import BodyCutShort, Headers, Request, Response
from workers.measures import Measures
from workers.middleware import compress, compressors
from workers.middleware.compress import Compression
from workers.middleware.compressors import AT_ONCE_BYTES, Coder, Compressed, Kept

TEXT = b"".join(b"line %d of the page\n" % n for n in range(20_000))
HTML = (b"content-type", b"text/html")
ETAG = (b"etag", b'"1"')


class Site:
    def __init__(self, **keys: Any) -> None:
        section = Compress.model_validate({"name": "c", "kind": "compress", **keys})
        self.measures = Measures()
        self.kept = Kept()
        self.middleware = Compression(section, self.kept, self.measures)

    def get(
        self, body: Any, accept: bytes = b"zstd", *, headers: Headers = (), fields: Headers = (HTML, ETAG), **how: Any
    ) -> Response:
        method, status = how.pop("method", b"GET"), how.pop("status", 200)
        response = self.middleware.wrap(lambda _: Response(status, fields, body, **how))(
            Request(method, b"a.test", b"/", [(b"accept-encoding", accept), *headers])
        )
        assert isinstance(response, Response)
        return response


def coding_of(response: Response) -> bytes | None:
    return dict(response.headers).get(b"content-encoding")


async def whole(body: Any) -> bytes:
    if isinstance(body, AsyncIterable):
        return b"".join([chunk async for chunk in body])
    assert isinstance(body, bytes)
    return body


def decoded(data: bytes, coding: bytes) -> bytes:
    if coding == b"gzip":
        return zlib.decompress(data, zlib.MAX_WBITS | 16)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("name", ["zstd", "gzip"])
@pytest.mark.parametrize("size", [512, 5000, AT_ONCE_BYTES, AT_ONCE_BYTES + 1, len(TEXT)])
async def test_bytes_files_and_chunks_are_compressed(name: str, size: int, tmp_path: Path) -> None:
    coding, text = name.encode(), TEXT[:size]
    (tmp_path / "file").write_bytes(b"before" + text + b"after")
    file = FileRange(Descriptor(os.open(tmp_path / "file", os.O_RDONLY)), 6, size)
    for level in (1, 9):
        for body in (text, file, chunks(text[:1000], b"", text[1000:])):
            response = Site(level=level).get(body, coding)
            assert coding_of(response) == coding
            data = await whole(response.body)
            assert decoded(data, coding) == text
            length = dict(response.headers).get(b"content-length")
            assert length in (None, b"%d" % len(data))
            assert (length is not None) == isinstance(response.body, bytes)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=2000), max_size=8), st.sampled_from(["zstd", "gzip"]), st.booleans())
def test_any_chunks_come_out_again(parts: list[bytes], name: Any, flush: bool) -> None:
    seen: list[tuple[int, int]] = []
    body = Compressed(chunks(*parts), Coder(name, 3), flush, lambda before, after: seen.append((before, after)))
    data = asyncio.run(whole(body))
    assert decoded(data, name.encode()) == b"".join(parts)
    assert seen == [(sum(map(len, parts)), len(data))]


async def test_chunks_of_unknown_total_do_not_wait_for_the_next_one() -> None:
    for name in ("zstd", "gzip"):
        body = Site().get(chunks(b"first" * 300, b"second" * 300), name.encode()).body
        assert isinstance(body, AsyncIterable)
        decoder = (
            zlib.decompressobj(zlib.MAX_WBITS | 16) if name == "gzip" else zstandard.ZstdDecompressor().decompressobj()
        )
        received, arrived = b"", []
        async for chunk in body:
            received += decoder.decompress(chunk)
            arrived.append(len(received))
        assert 1500 in arrived, f"{name}: the first chunk could not be read before the second: {arrived}"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (b"gzip, deflate, br, zstd", b"zstd"),
        (b"gzip;q=1, zstd;q=0.5", b"gzip"),
        (b"br", None),
        (b"zstd;q=0", None),
        (b"identity, gzip;q=0.5", None),
        (b"*", b"zstd"),
        (b"", None),
    ],
)
def test_the_client_decides(accept: bytes, expected: bytes | None) -> None:
    response = Site().get(TEXT[:5000], accept)
    assert coding_of(response) == expected
    assert (b"vary", b"accept-encoding") in response.headers, "a cache must not give it to other clients"
    assert (ETAG in response.headers) == (expected is None)


def test_what_must_not_be_compressed_is_the_same_response() -> None:
    site = Site()
    for fields in ((HTML, (b"content-encoding", b"br")), ((b"content-type", b"image/png"),)):
        assert site.get(TEXT, fields=fields) == Response(200, fields, TEXT)
    assert site.get(TEXT[:511]).body == TEXT[:511]
    assert site.get(TEXT[:100], status=206).status == 206
    assert site.get(None, status=204) == Response(204, (HTML, ETAG))


def test_a_copy_that_is_current_is_confirmed_with_the_weak_tag() -> None:
    assert list(Site().get(None, status=304).headers)[1] == (b"etag", b'W/"1"')
    assert ETAG in Site().get(None, b"identity", status=304).headers


def test_head_has_the_fields_of_get_without_a_length() -> None:
    fields = (HTML, ETAG, (b"content-length", b"5000"))
    response = Site().get(None, method=b"HEAD", fields=fields)
    assert response.body is None
    assert dict(response.headers) == {
        b"content-type": b"text/html",
        b"etag": b'W/"1"',
        b"content-encoding": b"zstd",
        b"vary": b"accept-encoding",
    }
    assert coding_of(Site().get(None, method=b"HEAD", fields=(HTML, (b"content-length", b"100")))) is None


def test_shared_responses_stay_shared_and_are_compressed_once() -> None:
    site = Site()
    text = TEXT[:5000]
    first, second = site.get(text, shared=True), site.get(text, shared=True)
    assert first.shared
    assert first.body is second.body
    assert site.get(text).body is not first.body, "what is not shared is not kept"
    before = site.measures.counter("velocity_compressed_bytes_total", ("before",)).value
    assert before == 3 * 5000


async def test_a_file_is_compressed_once_and_then_sent_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(TEXT)
    body = FileRange(Descriptor(os.open(tmp_path / "file", os.O_RDONLY)), 0, len(TEXT))
    site = Site()
    first = await whole(site.get(body, shared=True).body)
    again = site.get(body, shared=True)
    assert (again.body, again.shared) == (first, True)
    assert dict(again.headers)[b"content-length"] == b"%d" % len(first)
    assert isinstance(site.get(body, b"gzip", shared=True).body, AsyncIterable), "another coding"
    assert isinstance(site.get(FileRange(body.file, 0, len(TEXT)), shared=True).body, AsyncIterable), "a changed file"
    assert isinstance(site.get(body).body, AsyncIterable), "what is not shared is not looked for"


async def test_what_is_large_or_was_not_read_to_its_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    site, text = Site(), TEXT[: 3 * AT_ONCE_BYTES]
    chunks = site.get(text, shared=True).body
    assert isinstance(chunks, AsyncIterable)
    async for _ in chunks:
        break
    assert not site.kept._bodies
    monkeypatch.setattr(compressors, "MAX_KEPT_BYTES", 100)
    await whole(site.get(text, shared=True).body)
    assert not site.kept._bodies


def test_kept_bodies_are_bounded(tmp_path: Path) -> None:
    kept, coder = Kept(max_bytes=20_000), Coder("gzip", 1)
    bodies = [os.urandom(3000) for _ in range(10)]
    for body in bodies:
        kept.keep(body, coder, coder.all(body))
        kept.keep(body, coder, coder.all(body))
        assert kept._bytes <= 20_000
    assert len(kept._bodies) == 3
    assert kept.find(bodies[-1], coder) is not None
    (tmp_path / "file").write_bytes(b"x")
    file = Descriptor(os.open(tmp_path / "file", os.O_RDONLY))
    for _ in range(100):
        kept.keep(FileRange(file, 0, 1), coder, b"x")
    assert (len(kept._bodies), kept._files) == (compressors.MAX_KEPT_FILES, compressors.MAX_KEPT_FILES)
    kept.close()
    assert (kept._bytes, kept._files, len(kept._bodies)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("site", "credentials", "shared", "expected"),
    [
        (b"cross-site", b"cookie", False, None),
        (b"same-site", b"authorization", False, None),
        (b"same-origin", b"cookie", False, b"zstd"),
        (b"none", b"cookie", False, b"zstd"),
        (b"cross-site", b"x", False, b"zstd"),
        (b"cross-site", b"cookie", True, b"zstd"),
    ],
)
def test_what_a_page_of_another_site_causes_with_credentials_is_not_compressed(
    site: bytes, credentials: bytes, shared: bool, expected: bytes | None
) -> None:
    headers = [(b"sec-fetch-site", site), (credentials, b"secret")]
    assert coding_of(Site().get(TEXT[:5000], headers=headers, shared=shared)) == expected


async def test_streams_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "MAX_STREAMS", Compressed.alive + 2)
    site = Site()
    held = [site.get(TEXT) for _ in range(3)]
    assert [coding_of(response) for response in held] == [b"zstd", b"zstd", None]
    assert held.pop(2).body == TEXT
    del held[0]
    assert coding_of(site.get(TEXT)) == b"zstd", "a response that ended makes place"


async def test_a_long_body_gives_way_to_others() -> None:
    """Between two pieces of a body that compresses well, and gives no output, the loop runs."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    await whole(Site().get(bytes(40 * compressors.PIECE_BYTES)).body)
    other.cancel()
    assert turns >= 30


async def test_a_file_that_became_shorter_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(TEXT[:1000])
    file = FileRange(Descriptor(os.open(tmp_path / "file", os.O_RDONLY)), 0, 5000)
    with pytest.raises(BodyCutShort, match="shorter"):
        await whole(Site().get(file).body)
