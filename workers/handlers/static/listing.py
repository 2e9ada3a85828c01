"""Pages of directories (HTML, or JSON for clients that ask for it). Off unless the site has `listings: true`.

Names and stats are read through a descriptor from openat2; the page shows names, sizes and times, no link is followed.

A page of 10,000 names costs 100 ms, so it is made in slices between which the loop runs, one page of a worker at a
time, once for all clients that ask for it meanwhile or within the same second. An unchanged page is the same object as
before, so that responses to slow clients share its memory.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from html import escape
from typing import Final
from urllib.parse import quote

import orjson

from velocity_edge.text.printable import printable
from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.conditions import format_date
from workers.http import Response

#: A larger directory is truncated, and the page says so: bounds in names and in bytes of the page.
MAX_ENTRIES: Final = 10_000
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
#: Names that are read, hidden ones included.
MAX_SCANNED: Final = 100_000
#: Names per slice: 1 ms.
SLICE_NAMES: Final = 100
#: Pages that are being made or wait; further requests get a 503.
MAX_WAITING: Final = 64
#: Bytes of pages that are kept.
_MAX_KEPT_BYTES: Final = 16 * 1024 * 1024

#: (site, decoded path, hidden names are shown, JSON)
Key = tuple[int, bytes, bool, bool]


class Busy(Exception):
    """Too many pages were requested at once."""


@dataclass(frozen=True, slots=True)
class Item:
    """One name in a directory."""

    name: str
    directory: bool
    size: int
    modified_s: int


class Listings:
    """The pages of all sites of a worker."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """*clock* is wall time in seconds."""
        self._clock = clock
        self._sites = itertools.count()
        self._making: dict[Key, asyncio.Task[Response]] = {}
        self._one_at_a_time = asyncio.Lock()
        #: Key -> (second in which it was made, the page); the least recently used first.
        self._made: OrderedDict[Key, tuple[int, Response]] = OrderedDict()
        self._kept_bytes = 0

    def new_site(self) -> int:
        """Return a number for the pages of one more site."""
        return next(self._sites)

    def forget(self, site: int) -> None:
        """Drop the pages of a site."""
        for key in [key for key in self._made if key[0] == site]:
            self._kept_bytes -= _weight(self._made.pop(key)[1])

    async def page(self, key: Key, directory: Descriptor) -> Response:
        """Return the page for *directory*. Raises `Busy`."""
        made = self._made.get(key)
        if made is not None and made[0] == int(self._clock()):
            return made[1]
        task = self._making.get(key)
        if task is None:
            if len(self._making) >= MAX_WAITING:
                raise Busy
            task = self._making[key] = asyncio.get_running_loop().create_task(self._make(key, directory))
            task.add_done_callback(lambda done: self._over(key, done))
        # Shielded: a client that cancels its request must not cancel the page for others.
        return await asyncio.shield(task)

    async def _make(self, key: Key, directory: Descriptor) -> Response:
        async with self._one_at_a_time:
            page = await listing(directory.fd, key[1], as_json=key[3], hidden_files=key[2])
        before = self._made.pop(key, None)
        if before is not None:
            self._kept_bytes -= _weight(before[1])
            if before[1].body == page.body:
                page = before[1]
        self._made[key] = (int(self._clock()), page)
        self._kept_bytes += _weight(page)
        while self._kept_bytes > _MAX_KEPT_BYTES:
            _, (_, oldest) = self._made.popitem(last=False)
            self._kept_bytes -= _weight(oldest)
        return page

    def _over(self, key: Key, task: asyncio.Task[Response]) -> None:
        del self._making[key]
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it when no request waits any more


def _weight(page: Response) -> int:
    return len(page.body) if isinstance(page.body, bytes) else 0


def wants_json(accept: bytes | None) -> bool:
    """Return whether a client with this Accept field gets JSON."""
    return accept is not None and b"application/json" in accept and b"text/html" not in accept


async def listing(directory_fd: int, path: bytes, *, as_json: bool, hidden_files: bool) -> Response:
    """Return the page for the directory open at *directory_fd*; *path*, with its slashes, is for the heading."""
    items: list[Item] = []
    scanned = 0
    cut = False
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            if scanned == MAX_SCANNED or len(items) == MAX_ENTRIES:
                cut = True
                break
            scanned += 1
            if scanned % SLICE_NAMES == 0:
                await asyncio.sleep(0)
            if entry.name.startswith(".") and not hidden_files:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed during the scan
            items.append(Item(entry.name, stat.S_ISDIR(status.st_mode), status.st_size, int(status.st_mtime)))
    items.sort(key=lambda item: (not item.directory, item.name))
    rows: list[bytes] = []
    n_bytes = 0
    async for row in _rows(items, _json_row if as_json else _html_row):
        n_bytes += len(row) + 1
        if n_bytes > MAX_PAGE_BYTES:
            cut = True
            break
        rows.append(row)
    if as_json:
        kind, body = b"application/json", _json(rows)
    else:
        kind, body = b"text/html; charset=utf-8", _html(path, rows, cut)
    headers = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"vary", b"accept"),
        (b"cache-control", b"no-cache"),
    ]
    if cut:
        headers.append((b"velocity-listing", b"cut"))  # a JSON array has no place for it
    return Response(200, tuple(headers), body)


async def _rows(items: list[Item], row: Callable[[Item], bytes]) -> AsyncIterator[bytes]:
    for number, item in enumerate(items):
        if number % SLICE_NAMES == 0:
            await asyncio.sleep(0)
        yield row(item)


def _json_row(item: Item) -> bytes:
    return orjson.dumps(
        {
            "name": _shown(item.name),
            "type": "directory" if item.directory else "file",
            "size": item.size,
            "modified": item.modified_s,
        }
    )


def _json(rows: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(rows)


def _html_row(item: Item) -> bytes:
    slash = "/" if item.directory else ""
    href = "./" + quote(os.fsencode(item.name)) + slash
    size = "" if item.directory else str(item.size)
    when = format_date(max(item.modified_s, 0)).decode()
    return (
        f'<tr><td><a href="{escape(href)}">{escape(_shown(item.name))}{slash}</a></td>'
        f"<td>{size}</td><td>{when}</td></tr>"
    ).encode()


def _html(path: bytes, rows: list[bytes], cut: bool) -> bytes:
    title = escape(printable(path.decode("utf-8", "replace")))
    parent = '<tr><td><a href="../">../</a></td><td></td><td></td></tr>' if path != b"/" else ""
    note = f"<p>The first {len(rows)} entries; there are more.</p>" if cut else ""
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>body{{font:16px/1.5 system-ui;margin:2rem}}"
        "td{padding:0 1.5rem 0 0}td:nth-child(2){text-align:right}</style>"
        f"<h1>{title}</h1><table>{parent}"
    )
    return b"".join((head.encode(), *rows, f"</table>{note}\n".encode()))


def _shown(name: str) -> str:
    """Return *name* as printable Unicode: control characters and invalid UTF-8 are escaped or replaced."""
    return printable(os.fsencode(name).decode("utf-8", "replace"))
