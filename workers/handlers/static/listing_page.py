"""How the page of a directory looks: as HTML that sorts by its headings, as JSON, or as text.

Everything that is from the file system is escaped: names are shown without control and format characters, and a link is
percent-encoded. The HTML needs no script and loads nothing (`content-security-policy` says so); it follows the colours
of the reader's system.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal
from urllib.parse import quote

import orjson

from velocity_edge.text.printable import printable

Form = Literal["html", "json", "text"]
Column = Literal["name", "size", "modified"]
_COLUMNS: Final[tuple[Column, ...]] = ("name", "size", "modified")

TYPES: Final[dict[Form, bytes]] = {
    "html": b"text/html; charset=utf-8",
    "json": b"application/json",
    "text": b"text/plain; charset=utf-8",
}
#: The page has a style and links, nothing else.
POLICY: Final = b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'self'"

_STYLE: Final = """\
:root{color-scheme:light dark;--line:#8883;--dim:#666}
@media(prefers-color-scheme:dark){:root{--dim:#a3a3a3}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.25rem;font-weight:600;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
th{white-space:nowrap;font-weight:600}th a{color:inherit;text-decoration:none}
th[aria-sort=ascending] a:after{content:" \\2191"}th[aria-sort=descending] a:after{content:" \\2193"}
td+td{white-space:nowrap;color:var(--dim);font-variant-numeric:tabular-nums;width:1%}
td:nth-child(2),th:nth-child(2){text-align:right}
tr:hover td{background:#8881}a{text-decoration:none}a:hover{text-decoration:underline}
p{color:var(--dim)}@media(max-width:32rem){td:nth-child(3),th:nth-child(3){display:none}}
"""


@dataclass(frozen=True, slots=True)
class Item:
    """One name in a directory."""

    name: str
    directory: bool
    size: int
    modified_s: int


@dataclass(frozen=True, slots=True)
class Look:
    """The form of a page and its order: few values, so that nobody can ask for many different pages."""

    form: Form = "html"
    column: Column = "name"
    descending: bool = False

    def sorted(self, items: Sequence[Item]) -> list[Item]:
        """Return *items* in order: directories first, then by the column, then by name."""
        by: Callable[[Item], int | str] = {
            "name": lambda item: item.name,
            "size": lambda item: item.size,
            "modified": lambda item: item.modified_s,
        }[self.column]
        ordered = sorted(sorted(items, key=lambda item: item.name), key=by, reverse=self.descending)
        return sorted(ordered, key=lambda item: not item.directory)

    def row(self, item: Item) -> bytes:
        """Return the part of the page for one name."""
        match self.form:
            case "html":
                return _html_row(item)
            case "json":
                return _json_row(item)
            case "text":
                return _text_row(item)

    def page(self, path: bytes, rows: Sequence[bytes], cut: bool) -> bytes:
        """Return the page of *rows*; *cut*: there are more names."""
        if self.form == "json":
            return b"[%b]" % b",".join(rows)
        if self.form == "text":
            return b"".join(rows)
        return _html(path, rows, cut, self)


def look_of(accept: bytes | None, query: bytes) -> Look:
    """Return what a client with this Accept field asks for with `?sort=name|size|modified&order=asc|desc`."""
    accept = (accept or b"").lower()
    form: Form = "html"
    if b"text/html" not in accept:
        form = "json" if b"application/json" in accept else "text" if b"text/plain" in accept else "html"
    values = dict(part.partition(b"=")[::2] for part in query.split(b"&")[:8])
    column = next((name for name in _COLUMNS if name.encode() == values.get(b"sort")), _COLUMNS[0])
    return Look(form, column, values.get(b"order") == b"desc")


def _json_row(item: Item) -> bytes:
    return orjson.dumps(
        {
            "name": _shown(item.name),
            "type": "directory" if item.directory else "file",
            "size": item.size,
            "modified": item.modified_s,
        }
    )


def _text_row(item: Item) -> bytes:
    size = "-" if item.directory else str(item.size)
    return f"{_when(item.modified_s)} {size:>14} {_shown(item.name)}{'/' if item.directory else ''}\n".encode()


def _html_row(item: Item) -> bytes:
    slash = "/" if item.directory else ""
    href = "./" + quote(os.fsencode(item.name)) + slash
    size = "" if item.directory else _size(item.size)
    name = f'<a href="{escape(href)}">{escape(_shown(item.name))}{slash}</a>'
    return f"<tr><td>{name}<td>{size}<td>{_when(item.modified_s)[:16].replace('T', ' ')}</tr>\n".encode()


def _html(path: bytes, rows: Sequence[bytes], cut: bool, look: Look) -> bytes:
    title = escape(printable(path.decode("utf-8", "replace")))
    headings = "".join(_heading(column, look) for column in _COLUMNS)
    parent = '<tr><td><a href="../">../</a><td><td>\n' if path != b"/" else ""
    note = (
        f"<p>The first {len(rows)} entries; there are more.</p>"
        if cut
        else f"<p>{len(rows)} {'entry' if len(rows) == 1 else 'entries'}. Times are UTC.</p>"
    )
    head = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_STYLE}</style>\n"
        f"<h1>{_crumbs(path)}</h1>\n<table>\n<thead><tr class=head>{headings}</thead>\n<tbody>\n{parent}"
    )
    return b"".join((head.encode(), *rows, f"</table>\n{note}\n".encode()))


def _heading(column: Column, look: Look) -> str:
    here = column == look.column
    order = "desc" if here and not look.descending else "asc"
    state = f' aria-sort="{"descending" if look.descending else "ascending"}"' if here else ""
    return f'<th{state}><a href="?sort={column}&amp;order={order}">{column.capitalize()}</a>'


def _crumbs(path: bytes) -> str:
    """Return the path, each of its directories a link."""
    parts = path.decode("utf-8", "replace").strip("/").split("/") if path != b"/" else []
    crumbs = [f'<a href="{"../" * len(parts) or "./"}">/</a>']
    for i, part in enumerate(parts):
        up = "../" * (len(parts) - i - 1) or "./"
        crumbs.append(f'<a href="{up}">{escape(printable(part))}</a>/')
    return " ".join(crumbs)


def _size(n_bytes: int) -> str:
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _when(modified_s: int) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(modified_s))
    except (OverflowError, ValueError, OSError):
        return "-"


def _shown(name: str) -> str:
    """Return *name* as printable Unicode: control characters and invalid UTF-8 are escaped or replaced."""
    return printable(os.fsencode(name).decode("utf-8", "replace"))
