"""A directory as a page (HTML, or JSON for whoever asks for it). Off unless the site says `listings: true`.

Reads names and stats below a descriptor that openat2 gave; the page shows names, sizes and times, nothing is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Final
from urllib.parse import quote

import orjson

from workers.handlers.conditions import format_date
from workers.http import Response

#: A larger directory is cut, and the page says so.
MAX_ENTRIES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Item:
    """One name in a directory."""

    name: str
    directory: bool
    size: int
    modified_s: int


def listing(directory_fd: int, path: bytes, accept: bytes | None, *, hidden_files: bool) -> Response:
    """Return the page for the directory open at *directory_fd*; *path* is the request's, for the heading."""
    items: list[Item] = []
    cut = False
    for item in _items(directory_fd, hidden_files):
        if len(items) == MAX_ENTRIES:
            cut = True
            break
        items.append(item)
    items.sort(key=lambda item: (not item.directory, item.name))
    if accept is not None and b"application/json" in accept and b"text/html" not in accept:
        kind, body = b"application/json", _json(items)
    else:
        kind, body = b"text/html; charset=utf-8", _html(path.decode("utf-8", "replace"), items, cut)
    headers = (
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"vary", b"accept"),
        (b"cache-control", b"no-cache"),
    )
    return Response(200, headers, body)


def _items(directory_fd: int, hidden_files: bool) -> Iterator[Item]:
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            if entry.name.startswith(".") and not hidden_files:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # it went away while we read
            yield Item(entry.name, stat.S_ISDIR(status.st_mode), status.st_size, int(status.st_mtime))


def _json(items: list[Item]) -> bytes:
    return orjson.dumps(
        [
            {
                "name": _shown(item.name),
                "type": "directory" if item.directory else "file",
                "size": item.size,
                "modified": item.modified_s,
            }
            for item in items
        ]
    )


def _html(path: str, items: list[Item], cut: bool) -> bytes:
    title = escape(path)
    rows = ['<tr><td><a href="../">../</a></td><td></td><td></td></tr>'] if path != "/" else []
    for item in items:
        slash = "/" if item.directory else ""
        href = "./" + quote(os.fsencode(item.name)) + slash
        size = "" if item.directory else str(item.size)
        when = format_date(max(item.modified_s, 0)).decode()
        rows.append(
            f'<tr><td><a href="{escape(href)}">{escape(_shown(item.name))}{slash}</a></td>'
            f"<td>{size}</td><td>{when}</td></tr>"
        )
    note = f"<p>The first {MAX_ENTRIES} entries; there are more.</p>" if cut else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>body{{font:16px/1.5 system-ui;margin:2rem}}"
        "td{padding:0 1.5rem 0 0}td:nth-child(2){text-align:right}</style>"
        f"<h1>{title}</h1><table>{''.join(rows)}</table>{note}\n"
    ).encode()


def _shown(name: str) -> str:
    """Return *name* in Unicode: bytes that are no UTF-8 come as surrogates, which JSON and HTML cannot carry."""
    return os.fsencode(name).decode("utf-8", "replace")
