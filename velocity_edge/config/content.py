"""`content`: what is served: sites, proxies and routes.

What is done with a request is an action: `Site` (files), `FixedAnswer` or `Upstream`. Each has only its own keys: the
model refuses a key of another kind of action. `sites` and `proxies` are actions with a host name; `routes` choose one
by `type`. routes.py resolves all three into one list. Each action becomes a handler in workers/handlers/build.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.upstreams import Upstream
from velocity_edge.config.values import AbsolutePath, Hostname, Method, OneOrMore, RoutePath

#: RFC 9110 section 5.1: a field name is a token.
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Lengths and dates are set by the server; the others are connection-specific and malformed in HTTP/3 (RFC 9114
#: section 4.2).
_RESERVED_FIELDS: Final = frozenset(
    ("content-length", "date", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te")
)
#: Statuses of which a response has no body (RFC 9110).
_WITHOUT_BODY: Final = (204, 205, 304)


class Site(Section):
    """A host name and the directory that is served under it."""

    hostname: Hostname
    """The name, `*.example.com`, or `*` for every name without a site of its own."""
    aliases: Annotated[list[Hostname], OneOrMore] = []
    """Additional names for the same site."""
    root: AbsolutePath
    """The directory. Files outside of it are never served, even through symbolic links."""
    index: Annotated[list[str], OneOrMore] = ["index.html"]
    """Index files of a directory; the first that exists is used."""
    cache_control: str | None = Field(default=None, pattern=r"^[ -~]*$")
    """Value of the Cache-Control header of files."""
    listings: bool = False
    """List directories that have no index (HTML, or JSON for clients that ask for it)."""
    spa_fallback: str | None = None
    """File that is served for paths that do not exist, for single-page applications, such as index.html."""
    precompressed: bool = True
    """Serve `file.br`, `file.zst` or `file.gz` in place of `file` to clients that accept the coding."""
    error_pages: dict[Annotated[int, Field(ge=400, le=599)], str] = {}
    """Files to send with an error status, such as `404: errors/404.html`."""
    hidden_files: bool = False
    """Serve files and directories whose names begin with a dot. (/.well-known is always served.)"""
    security_headers: bool = True
    """Add `x-content-type-options: nosniff`, `referrer-policy` and `x-frame-options`."""
    fallback_endpoint: str | None = None
    """Where clients are sent that do not support `velocity/1`. (Not implemented yet.)"""

    def problems(self) -> Iterator[Problem]:
        """Yield what is not implemented."""
        if self.fallback_endpoint is not None:
            yield ("fallback_endpoint",), "cannot point to a fallback yet: leave it out"


class FixedAnswer(Section):
    """`type: static`: a fixed answer, sent when the request is complete."""

    type: Literal["static"]
    """`static`"""
    status: Annotated[int, Field(ge=200, le=599)] = 200
    """Status of the answer."""
    body: str = ""
    """Body of the answer, as UTF-8."""
    headers: dict[str, Annotated[str, Field(pattern=r"^[ -~]*$")]] = {}
    """Fields of the answer. Without a `content-type`, a body is plain text."""

    def problems(self) -> Iterator[Problem]:
        """Yield a body or a field that such an answer cannot have."""
        if self.status in _WITHOUT_BODY and self.body:
            yield ("body",), f"cannot be combined with status {self.status}: that status has no body (RFC 9110)"
        for name in self.headers:
            if not _FIELD_NAME.fullmatch(name):
                yield ("headers",), f"cannot use {name!r}: must be a field name such as cache-control"
            elif name.lower() in _RESERVED_FIELDS:
                yield ("headers",), f"cannot set {name!r}: the server sets it, or HTTP/3 does not allow it"


class ProxyAction(Upstream):
    """`type: proxy`: requests are forwarded to an upstream. (Not implemented yet.)"""

    type: Literal["proxy"]
    """`proxy`"""

    def problems(self) -> Iterator[Problem]:
        """Yield that it is not implemented."""
        yield from super().problems()
        yield ("type",), "cannot proxy yet: must be 'static', or let another server answer for this path"


class _HostAndPath(Section):
    """The requests that a proxy is for."""

    hostname: Hostname
    """The name, as in `sites`."""
    path: RoutePath = "/"
    """Prefix of the paths that are forwarded."""


class Proxy(Upstream, _HostAndPath):
    """A host name and the upstream for it. (Not implemented yet.)"""


class Match(Section):
    """Which requests a route is for."""

    path: RoutePath
    """Prefix of the path, in whole segments: `/api` matches `/api` and `/api/x`, not `/apix`. The longest one wins."""
    methods: Annotated[list[Method], OneOrMore] = []
    """Methods that it answers, such as GET or POST; GET includes HEAD. Others get a 405. Unset: every method."""


class RouteSection(Section):
    """An action by path and method, on the hosts of every site (on every host when there are no sites)."""

    match: Match
    action: Annotated[FixedAnswer | ProxyAction, Field(discriminator="type")]


class Content(Section):
    """What is served."""

    sites: list[Site] = []
    """Directories, by host name."""
    proxies: list[Proxy] = []
    """Upstreams, by host name. (Not implemented yet.)"""
    routes: list[RouteSection] = []
    """Actions by path and method. They take precedence over the files of a site."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is not implemented."""
        if self.proxies:
            yield (
                ("proxies",),
                "cannot proxy yet: serve directories with content.sites, and let another server answer for these names",
            )
