"""Files of a site: GET and HEAD, conditional requests, ranges, precompressed sidecars, nothing outside of the root.

This file decides which answer a request gets; the rooms beside it know paths (target.py), the kernel's side
(beneath.py), what is kept (files.py) and the rules of RFC 9110 (conditions.py, ranges.py, encodings.py). The handler is
a plain function that never waits, except for the page of a directory (listing.py): opening and reading a file of the
page cache takes microseconds. (A cold disk holds up this worker meanwhile; peers behave alike, and the loop's lag shows
it.)
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

from velocity_edge.http.requests import FileRange
from workers.handlers.static import ranges
from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.conditions import Conditions, Verdict, evaluate, range_holds
from workers.handlers.static.encodings import choose
from workers.handlers.static.files import Entry, FileStore, Representation
from workers.handlers.static.listing import Busy, Listings, wants_json
from workers.handlers.static.open_files import OpenFiles
from workers.handlers.static.target import BadTarget, relative_path
from workers.http import BodyCutShort, Request, Response, plain

ALLOW: Final = (b"allow", b"GET, HEAD")
#: Bytes per read of a multipart body; the engine's watermarks decide how many reads happen ahead of the network.
_CHUNK_BYTES: Final = 64 * 1024
#: Multipart answers of a worker in flight. Each keeps up to `Limits.send_high_bytes` (256 KiB) in memory, even
#: when its client reads nothing: 64 MiB together. Whoever comes then gets the whole file, which needs none.
MAX_MULTIPARTS: Final = 256
#: What "there is nothing" looks like to openat2: no such name, a file used as a directory, a link out of the root or in
#: a circle, a socket or a device without driver, a name the file system cannot have.
_NOTHING: Final = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG, errno.EINVAL)
)


@dataclass(frozen=True, slots=True)
class StaticSettings:
    """What a site says about its files (velocity_edge/config/model.py, `Site`)."""

    index: tuple[str, ...] = ("index.html",)
    cache_control: str | None = None
    listings: bool = False
    spa_fallback: str | None = None
    precompressed: bool = True
    hidden_files: bool = False
    error_pages: Mapping[int, str] = field(default_factory=dict)


class StaticHandler:
    """A `Handler` for the files below one directory."""

    def __init__(
        self,
        root: Descriptor,
        settings: StaticSettings,
        clock: Callable[[], float],
        listings: Listings | None = None,
        open_files: OpenFiles | None = None,
    ) -> None:
        """*clock* is wall time in seconds; *listings* makes the pages of directories, for all sites of a revision.

        *open_files* bounds the descriptors of all sites of a worker.
        """
        self._root_fd = root.fd
        self._settings = settings
        self._listings = listings or Listings(clock)
        self._clock = clock
        self._index = tuple(os.fsencode(name) for name in settings.index)
        self._fallback = os.fsencode(settings.spa_fallback.lstrip("/")) if settings.spa_fallback else None
        self._error_pages = {status: os.fsencode(path.lstrip("/")) for status, path in settings.error_pages.items()}
        self._files = FileStore(
            root,
            clock,
            precompressed=settings.precompressed,
            cache_control=settings.cache_control.encode() if settings.cache_control else None,
            open_files=open_files,
        )

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer *request*: at once, or when the page of a directory is made."""
        if request.method not in (b"GET", b"HEAD"):
            return self._error(request, 405, ALLOW)
        try:
            path = relative_path(request.path, hidden_files=self._settings.hidden_files)
        except BadTarget as bad:
            return self._error(request, bad.status)
        try:
            return self._find(request, path)
        except PermissionError:
            return self._error(request, 403)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return self._error(request, 503, (b"retry-after", b"1"))
            if error.errno not in _NOTHING:
                raise
        if self._fallback is not None:
            try:
                return self._send(request, self._files.get(self._fallback))
            except OSError as error:
                if error.errno not in _NOTHING:
                    raise
        return self._error(request, 404)

    def _find(self, request: Request, path: bytes) -> Response | Awaitable[Response]:
        """Return the file's answer, a redirect to the directory, or the directory's. Raises OSError."""
        if path and not path.endswith(b"/"):
            try:
                return self._send(request, self._files.get(path))
            except IsADirectoryError:
                query = b"?" + request.query if request.query else b""
                location = (b"location", request.path + b"/" + query)
                return Response(308, (location, (b"content-length", b"0")))
        for name in self._index:
            try:
                return self._send(request, self._files.get(path + name))
            except IsADirectoryError:
                continue
            except OSError as error:
                if error.errno not in _NOTHING:
                    raise
        if not self._settings.listings:
            raise FileNotFoundError(errno.ENOENT, "no index", path)
        return self._list(request, b"/" + path, self._files.list(path))

    async def _list(self, request: Request, path: bytes, directory: Descriptor) -> Response:
        key = (self._root_fd, path, self._settings.hidden_files, wants_json(request.header(b"accept")))
        try:
            page = await self._listings.page(key, directory)
        except Busy:
            return self._error(request, 503, (b"retry-after", b"1"))
        return _without_body(page) if request.method == b"HEAD" else page

    def _send(self, request: Request, entry: Entry) -> Response:
        chosen = entry.plain
        if entry.encoded:
            coding = choose(request.header(b"accept-encoding"), tuple(entry.encoded))
            if coding is not None:
                chosen = entry.encoded[coding]
        conditions, range_value = _conditions(request)
        now_s = self._clock()
        if conditions is not None:
            match evaluate(conditions, chosen.validators, now_s):
                case Verdict.FAILED:
                    return self._error(request, 412)
                case Verdict.NOT_MODIFIED:
                    return Response(304, chosen.common)
                case Verdict.GO:
                    pass
        if request.method == b"HEAD":
            return _without_body(chosen.whole)
        if range_value is not None and range_holds(conditions or Conditions(), chosen.validators, now_s):
            pieces = ranges.parse(range_value, chosen.size)
            # The answer may ignore the field (RFC 9110 section 14.2): the whole needs no buffers of ours.
            if pieces is not None and (len(pieces) < 2 or Multipart.alive < MAX_MULTIPARTS):
                return self._partial(request, chosen, pieces)
        return chosen.whole

    def _partial(self, request: Request, chosen: Representation, pieces: list[ranges.Piece]) -> Response:
        if not pieces:
            return self._error(request, 416, (b"content-range", b"bytes */%d" % chosen.size))
        if len(pieces) == 1:
            piece = pieces[0]
            headers = (
                (b"content-type", chosen.content_type),
                (b"content-length", b"%d" % piece.length),
                (b"content-range", piece.content_range(chosen.size)),
                *chosen.common,
            )
            return Response(206, headers, chosen.piece(piece.offset, piece.length))
        # Random, so that nobody can put it into a file beforehand.
        boundary = b"velocity-" + os.urandom(12).hex().encode()
        headers = (
            (b"content-type", b"multipart/byteranges; boundary=" + boundary),
            (b"content-length", b"%d" % ranges.multipart_length(boundary, chosen.content_type, pieces, chosen.size)),
            *chosen.common,
        )
        return Response(206, headers, Multipart(chosen, pieces, boundary))

    def _error(self, request: Request, status: int, *headers: tuple[bytes, bytes]) -> Response:
        """Return the site's own page for *status*, or a line of text."""
        answer = plain(status, "", *headers)
        page = self._error_pages.get(status)
        if page is not None:
            try:
                whole = self._files.get(page).plain
            except OSError:
                pass  # `prepare` has checked that it exists; removed since then, a line of text does
            else:
                kept = ((b"content-type", whole.content_type), (b"content-length", b"%d" % whole.size), *headers)
                answer = Response(status, kept, whole.piece(0, whole.size))
        return _without_body(answer) if request.method == b"HEAD" else answer

    def missing(self) -> list[str]:
        """Return the files that the settings name and that are not there."""
        absent = []
        for path in (*self._error_pages.values(), *((self._fallback,) if self._fallback else ())):
            try:
                self._files.get(path)
            except OSError as error:
                absent.append(f"{os.fsdecode(path)}: {error.strerror}")
        return absent


def _without_body(response: Response) -> Response:
    return Response(response.status, response.headers)


_CONDITION_FIELDS: Final = {
    b"if-match": "if_match",
    b"if-none-match": "if_none_match",
    b"if-modified-since": "if_modified_since",
    b"if-unmodified-since": "if_unmodified_since",
    b"if-range": "if_range",
}


def _conditions(request: Request) -> tuple[Conditions | None, bytes | None]:
    """Return the preconditions (None: there are none) and the Range value."""
    found: dict[str, bytes] = {}
    range_value = None
    for name, value in request.headers:
        if name == b"range":
            # Range is not a list field: a second one makes both invalid, and invalid is ignored (14.2).
            range_value = value if range_value is None else b""
        elif name in _CONDITION_FIELDS:
            key = _CONDITION_FIELDS[name]
            found[key] = found[key] + b", " + value if key in found else value
    return (Conditions(**found) if found else None), range_value


class Multipart:
    """A multipart/byteranges body, read in bounded pieces. `file` is what it keeps open, if anything."""

    #: How many there are in this process.
    alive: ClassVar[int] = 0

    def __init__(self, chosen: Representation, pieces: list[ranges.Piece], boundary: bytes) -> None:
        self.file = chosen.file
        self._chosen = chosen
        self._pieces = pieces
        self._boundary = boundary
        Multipart.alive += 1

    def __del__(self) -> None:
        Multipart.alive -= 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises `BodyCutShort` when the file became shorter, or cannot be read."""
        chosen = self._chosen
        for piece in self._pieces:
            yield ranges.part_head(self._boundary, chosen.content_type, piece, chosen.size)
            data = chosen.piece(piece.offset, piece.length)
            if not isinstance(data, FileRange):
                yield data
                continue
            position = piece.offset
            while position < piece.end:
                try:
                    chunk = os.pread(data.file.fd, min(_CHUNK_BYTES, piece.end - position), position)
                except OSError as error:
                    raise BodyCutShort(f"it cannot be read: {error.strerror}") from None
                if not chunk:
                    raise BodyCutShort("the file became shorter while it was sent")
                position += len(chunk)
                yield chunk
        yield ranges.multipart_tail(self._boundary)
