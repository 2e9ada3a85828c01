"""Files of a site: GET and HEAD, conditional requests, ranges, precompressed files, nothing outside of the root.

This file decides which response a request gets; others parse paths (target.py), open files (beneath.py), cache them
(files.py) and implement RFC 9110 (conditions.py, ranges.py, encodings.py). The handler is a plain function that never
waits, except for the page of a directory (listing.py): opening and reading a file of the page cache takes microseconds.
A read from a slow disk delays this worker meanwhile, as in other servers; the loop lag metric shows it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import Final

from velocity_edge.config.content import Site
from workers.handlers.static import ranges
from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.cache_control import CacheControl
from workers.handlers.static.conditions import Conditions, Verdict, evaluate, range_holds
from workers.handlers.static.encodings import choose
from workers.handlers.static.files import Entry, FileStore, Representation
from workers.handlers.static.listing import Busy, Listings
from workers.handlers.static.listing_page import look_of
from workers.handlers.static.multipart import MAX_MULTIPARTS, Multipart
from workers.handlers.static.open_files import OpenFiles
from workers.handlers.static.target import BadTarget, relative_path
from workers.http import Headers, Request, Response, plain

ALLOW: Final = (b"allow", b"GET, HEAD")
#: Errors of openat2 that mean 404: no such name, a file used as a directory, a link out of the root or in a loop, a
#: socket or a device without driver, a name that the file system does not allow.
_NOTHING: Final = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG, errno.EINVAL)
)


class StaticHandler:
    """A `Handler` for the files below one directory, and a `Resource`: revisions with the same settings share it."""

    def __init__(
        self,
        root: Descriptor,
        site: Site,
        clock: Callable[[], float],
        listings: Listings | None = None,
        open_files: OpenFiles | None = None,
    ) -> None:
        """*clock* is wall time in seconds; *listings* makes the pages of directories, for all sites of a worker.

        *open_files* bounds the descriptors of all sites of a worker. Of *site* everything is used but its names.
        """
        self._listings = listings or Listings(clock)
        self._pages = self._listings.new_site()
        self._lists = site.listings
        self._hidden_files = site.hidden_files
        self._clock = clock
        self._index = tuple(os.fsencode(name) for name in site.index)
        self._fallback = _relative(site.spa_fallback) if site.spa_fallback else None
        self._error_pages = {status: _relative(path) for status, path in site.error_pages.items()}
        self._files = FileStore(
            root,
            clock,
            precompressed=site.precompressed,
            cache_control=CacheControl(site.cache_control, [(one.path, one.cache_control) for one in site.cache_rules]),
            open_files=open_files,
        )

    def use_root(self, root: Descriptor) -> None:
        """Serve this directory from now on: it is at the path of the site's root now."""
        self._files.use_root(root)
        self._listings.forget(self._pages)

    def close(self) -> None:
        """Release the files and pages that are kept. No further request will come."""
        self._files.forget()
        self._listings.forget(self._pages)

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer *request*: at once, or when the page of a directory is ready."""
        if request.method not in (b"GET", b"HEAD"):
            return self._error(request, 405, ALLOW)
        try:
            path = relative_path(request.path, hidden_files=self._hidden_files)
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
        if not self._lists:
            raise FileNotFoundError(errno.ENOENT, "no index", path)
        return self._list(request, b"/" + path, self._files.list(path))

    async def _list(self, request: Request, path: bytes, directory: Descriptor) -> Response:
        key = (self._pages, path, self._hidden_files, look_of(request.header(b"accept"), request.query))
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
            # The field may be ignored (RFC 9110 section 14.2): the whole file needs no buffer here.
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
        # Random, so that no file can contain it.
        boundary = b"velocity-" + os.urandom(12).hex().encode()
        headers = (
            (b"content-type", b"multipart/byteranges; boundary=" + boundary),
            (b"content-length", b"%d" % ranges.multipart_length(boundary, chosen.content_type, pieces, chosen.size)),
            *chosen.common,
        )
        return Response(206, headers, Multipart(chosen, pieces, boundary))

    @property
    def error_statuses(self) -> frozenset[int]:
        """The statuses for which the site has pages."""
        return frozenset(self._error_pages)

    def dressed(self, request: Request, status: int, headers: Headers) -> Response | None:
        """Return *status* with the site's own page for it, and *headers*; None without a page."""
        page = self._error_pages.get(status)
        if page is None:
            return None
        try:
            whole = self._files.get(page).plain
        except OSError:
            return None  # it existed when the revision was prepared; a line of text replaces it
        kept = ((b"content-type", whole.content_type), (b"content-length", b"%d" % whole.size), *headers)
        answer = Response(status, kept, whole.piece(0, whole.size))
        return _without_body(answer) if request.method == b"HEAD" else answer

    def _error(self, request: Request, status: int, *headers: tuple[bytes, bytes]) -> Response:
        """Return the site's own error page for *status*, or a line of text."""
        page = self.dressed(request, status, headers)
        if page is not None:
            return page
        answer = plain(status, "", *headers)
        return _without_body(answer) if request.method == b"HEAD" else answer


def missing(root: Descriptor, site: Site, clock: Callable[[], float], needed: str = "") -> list[str]:
    """Return the files that *site* names, and *needed*, that are not below *root*, with the reason."""
    files = FileStore(root, clock)
    absent = []
    for path in (*site.error_pages.values(), site.spa_fallback, needed):
        if not path:
            continue
        try:
            files.get(_relative(path))
        except OSError as error:
            absent.append(f"{path.lstrip('/')}: {error.strerror}")
    return absent


def _relative(path: str) -> bytes:
    return os.fsencode(path.lstrip("/"))


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
            # Range is not a list field: a second one makes both invalid, and an invalid field is ignored (14.2).
            range_value = value if range_value is None else b""
        elif name in _CONDITION_FIELDS:
            key = _CONDITION_FIELDS[name]
            found[key] = found[key] + b", " + value if key in found else value
    return (Conditions(**found) if found else None), range_value
