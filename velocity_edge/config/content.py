"""`content`: what is served: sites, proxies and routes.

What is done with a request is an action: a site (files), a proxy, or an action of a route (actions.py). `sites` and
`proxies` are actions with a host name; `routes` choose one by `type` for the requests that match (match.py). routes.py
resolves all three into one list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from velocity_edge.config.actions import Action, RedirectAnswer, TemplateAnswer
from velocity_edge.config.match import Match
from velocity_edge.config.middlewares import Middleware
from velocity_edge.config.middlewares.base import MiddlewareName
from velocity_edge.config.middlewares.rate_limit import RateLimitRule
from velocity_edge.config.middlewares.waf import WafRules
from velocity_edge.config.patterns import PathPattern
from velocity_edge.config.section import KeyPath, Need, Problem, Section
from velocity_edge.config.upstreams import Upstream
from velocity_edge.config.values import AbsolutePath, Hostname, OneOrMore


class Around(Section):
    """What is around an action: keys that sites, proxies and routes have alike."""

    middlewares: list[MiddlewareName] | None = None
    """Names of the middlewares that apply, from the outside to the inside. Unset: those with `everywhere: true`. An
    empty list: none."""
    rate_limit: RateLimitRule | None = None
    """In place of `content.rate_limit`."""
    waf: WafRules | None = None
    """In place of `content.waf`."""


class CacheRule(Section):
    """Which files get a Cache-Control of their own."""

    path: Annotated[str, Field(pattern=r"^[ -~]+$", max_length=512)]
    """Which files: `*.html` by the name, `/assets/*` by the path. `*` is any text without a slash, `**` with them."""
    cache_control: Annotated[str, Field(pattern=r"^[ -~]*$", max_length=1024)]
    """Value of the field, such as `public, max-age=31536000, immutable`. Empty: none."""

    def problems(self) -> Iterator[Problem]:
        """Yield a pattern that would be slow."""
        if self.path.replace("**", "*").count("*") > 6:
            yield ("path",), "cannot have more than 6 stars"


class Site(Around):
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
    cache_rules: list[CacheRule] = []
    """Other values by path; the first that matches is used."""
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

    def needs(self) -> Iterator[Need]:
        """Yield the root."""
        yield Need(self.root, "directory", ("root",))


class _HostAndPath(Section):
    """The requests that a proxy is for."""

    hostname: Hostname
    """The name, as in `sites`."""
    path: PathPattern = "/"
    """Prefix of the paths that are forwarded, as in `match.path` of a route."""


class Proxy(Upstream, _HostAndPath, Around):
    """A host name and the upstream for it."""


class RouteSection(Around):
    """An action for the requests that match."""

    match: Match
    action: Action

    def problems(self) -> Iterator[Problem]:
        """Yield a redirect that names a parameter which the path does not have."""
        if isinstance(self.action, RedirectAnswer):
            names = self.match.pattern.parameters
            for name in re.findall(r"\{([^{}]*)\}", self.action.to):
                if name.removesuffix("...") not in names:
                    known = ", ".join(names) or "none"
                    yield ("action", "to"), f"cannot use {{{name}}}: parameters of {self.match.path} are {known}"


class Content(Section):
    """What is served."""

    sites: list[Site] = []
    """Directories, by host name."""
    proxies: list[Proxy] = []
    """Upstreams, by host name."""
    routes: list[RouteSection] = []
    """Actions by path and method. They take precedence over the files of a site."""
    middlewares: list[Middleware] = []
    """What sites, proxies and routes can have around them, by name."""
    rate_limit: RateLimitRule | None = None
    """A limit for everything that is served."""
    waf: WafRules | None = None
    """Rules for everything that is served."""
    templates_dir: AbsolutePath | None = None
    """Directory of the templates of `type: template`."""

    def problems(self) -> Iterator[Problem]:
        """Yield names of middlewares that are defined twice or not at all."""
        for i, route in enumerate(self.routes):
            if isinstance(route.action, TemplateAnswer) and self.templates_dir is None:
                place = "routes", str(i), "action", "name"
                yield place, "cannot be used without a directory of templates: set templates_dir"
        times = Counter(middleware.name for middleware in self.middlewares)
        for i, middleware in enumerate(self.middlewares):
            if times[middleware.name] > 1:
                yield (
                    ("middlewares", str(i), "name"),
                    f"cannot define {middleware.name!r} twice: names must differ",
                )
        for where, around in self.users():
            for i, name in enumerate(around.middlewares or ()):
                if name not in times:
                    known = ", ".join(sorted(times)) or "none"
                    yield (*where, "middlewares", str(i)), f"cannot use {name!r}: content.middlewares defines {known}"

    def needs(self) -> Iterator[Need]:
        """Yield the directory of the templates."""
        if self.templates_dir is not None:
            yield Need(self.templates_dir, "directory", ("templates_dir",))

    def users(self) -> Iterator[tuple[KeyPath, Around]]:
        """Yield all that can have middlewares, with their places below this section."""
        yield from ((("sites", str(i)), site) for i, site in enumerate(self.sites))
        yield from ((("proxies", str(i)), proxy) for i, proxy in enumerate(self.proxies))
        yield from ((("routes", str(i)), route) for i, route in enumerate(self.routes))

    def unused(self) -> list[str]:
        """Return the names of middlewares that protect nothing: no list has them, and they are not `everywhere`."""
        named = {name for _, around in self.users() for name in around.middlewares or ()}
        return [
            middleware.name
            for middleware in self.middlewares
            if middleware.name not in named and not middleware.everywhere
        ]
