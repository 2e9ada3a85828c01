"""`action: {type: redirect}`: sends the client to another address (RFC 9110 section 15.4).

Parts of the request in the address are encoded again, and what begins with a slash never becomes `//host`: a request
cannot choose the host that its client is sent to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from velocity_edge.config.actions import RedirectAnswer
from velocity_edge.config.patterns import Pattern
from velocity_edge.http.paths import AmbiguousPath, segments_of
from workers.http import Request, Response

#: Several slashes at the beginning of a path, or a backslash that browsers read as one.
_SLASHES: Final = re.compile(r"^(/|\\|%5[cC])+")
_UNSAFE: Final = re.compile(rb"[^!-~]")


class RedirectHandler:
    """A `Handler` that answers each request with a redirect."""

    def __init__(self, action: RedirectAnswer, pattern: Pattern) -> None:
        """*pattern*: the path of the route."""
        self._to = action.to
        self._status = action.status
        self._keep_path = action.keep_path
        self._keep_query = action.keep_query
        self._segments = len(pattern.segments)
        self._names = pattern.parameters
        self._rest = pattern.rest

    def __call__(self, request: Request) -> Response:
        """Return the redirect; a request's body is not waited for."""
        target = filled(self._to, request.params, self._names, self._rest)
        path, mark, query = target.partition("?")
        if self._keep_path:
            path = path.rstrip("/") + _below(request.path, self._segments)
        if path.startswith("/"):
            path = _SLASHES.sub("/", path)
        if self._keep_query and request.query:
            query = f"{query}&{_printable(request.query)}" if query else _printable(request.query)
            mark = "?"
        location = f"{path}{mark}{query}".encode("ascii")
        return Response(self._status, ((b"location", location), (b"content-length", b"0")))


def filled(to: str, params: Mapping[str, str], names: tuple[str, ...], rest: str | None) -> str:
    """Return *to* with the parameters *names* in it, percent-encoded; of *rest* the slashes stay."""
    for name in names:
        value = params.get(name, "")
        steps = value.split("/") if name == rest else [value]
        text = "/".join(map(_encoded, steps))
        to = to.replace(f"{{{name}}}", text).replace(f"{{{name}...}}", text)
    return to


def _encoded(step: str) -> str:
    # A segment of dots would be resolved by the client.
    return step.replace(".", "%2E") if step in (".", "..") else quote(step, safe="")


def _below(path: bytes, segments: int) -> str:
    """Return what follows in *path* after the first *segments*, with its slash; empty when nothing does."""
    try:
        rest = segments_of(path)[segments:]
    except AmbiguousPath:
        return ""
    return "/" + _printable(b"/".join(rest)) if rest and rest != [b""] else ""


def _printable(text: bytes) -> str:
    return _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], text).decode("ascii")
