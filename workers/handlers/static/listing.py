"""Pages of directories, made and kept. Off unless the site has `listings: true`. Their look: listing_page.py.

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
from typing import Final

from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.listing_page import POLICY, TYPES, Item, Look
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

#: (site, decoded path, hidden names are shown, form and order)
Key = tuple[int, bytes, bool, Look]


class Busy(Exception):
    """Too many pages were requested at once."""


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
            page = await listing(directory.fd, key[1], key[3], hidden_files=key[2])
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


async def listing(directory_fd: int, path: bytes, look: Look, *, hidden_files: bool) -> Response:
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
    items = look.sorted(items)
    rows: list[bytes] = []
    n_bytes = 0
    async for row in _rows(items, look):
        n_bytes += len(row) + 1
        if n_bytes > MAX_PAGE_BYTES:
            cut = True
            break
        rows.append(row)
    body = look.page(path, rows, cut)
    headers = [
        (b"content-type", TYPES[look.form]),
        (b"content-length", b"%d" % len(body)),
        (b"vary", b"accept"),
        (b"cache-control", b"no-cache"),
    ]
    if look.form == "html":
        headers.append((b"content-security-policy", POLICY))
    if cut:
        headers.append((b"velocity-listing", b"cut"))  # a JSON array has no place for it
    return Response(200, tuple(headers), body)


async def _rows(items: list[Item], look: Look) -> AsyncIterator[bytes]:
    for number, item in enumerate(items):
        if number % SLICE_NAMES == 0:
            await asyncio.sleep(0)
        yield look.row(item)
