"""What answers a request: host, then the most specific path, then header conditions, then the method. Pure.

A host is exact (`example.com`), a wildcard (`*.example.com`: one label, as in certificates, RFC 9525 section 6.3) or
the default (`*`). Exact takes precedence over wildcard over default, and the routes of that host alone count. For a
host without routes the answer should be 421, so that a browser that coalesced connections tries again on its own (RFC
9110 section 15.5.20).

Paths are compared segment by segment from the left: a literal segment takes precedence over a parameter, that over a
parameter for everything below, that over a prefix that ends here; a route for the path alone (`exact`) over a prefix.
If the conditions of a route do not hold, the next less specific one is tried. Which of the routes of one path answers
is decided in path_routes.py.

The routes of a host are a tree of segments, in which a request visits each node at most once. A host with a single
route, such as a site, has no tree. The router does not know what it finds: a worker builds it over pipelines, once per
revision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from velocity_edge.config.patterns import Pattern
from velocity_edge.http.paths import AmbiguousPath, segments_of
from workers.serve.path_routes import Answers, Asked, Choice, Leaf, Route

T = TypeVar("T")


class Router(Generic[T]):
    """The routes of one revision."""

    def __init__(self, routes: Sequence[Route[T]], answers: Answers[T]) -> None:
        """Raises ValueError on two routes for the same requests."""
        self._exact: dict[bytes, _Node[T]] = {}
        self._wildcard: dict[bytes, _Node[T]] = {}
        self._default: _Node[T] | None = None
        self._answers = answers
        for route in routes:
            self._root_for(route.host.lower().encode("ascii")).add(route)
        for root in (*self._exact.values(), *self._wildcard.values(), self._default):
            if root is not None:
                root.finish(answers.method_not_allowed)

    def _root_for(self, host: bytes) -> _Node[T]:
        if host == b"*":
            self._default = self._default or _Node()
            return self._default
        if host.startswith(b"*."):
            return self._wildcard.setdefault(host[1:], _Node())
        # An IPv6 address, as in an authority.
        return self._exact.setdefault(b"[%b]" % host if b":" in host else host, _Node())

    def find(self, request: Asked) -> T:
        """Return what answers *request*; its `host` is as `host_of` returns it, its `path` raw and without query."""
        root = self._exact.get(request.host) or self._less_exact(request.host)
        if root is None:
            return self._answers.no_such_host
        if root.everything is not None:
            chosen = root.everything.choose(request)
            return self._answers.no_such_path if chosen is None else chosen[0]
        if request.path[:1] != b"/":
            # OPTIONS * and CONNECT have no path: they are for what has every path.
            chosen = root.prefix.choose(request) if root.prefix is not None else None
            return self._answers.no_such_path if chosen is None else chosen[0]
        try:
            segments = segments_of(request.path)
        except AmbiguousPath:
            return self._answers.ambiguous_path
        chosen = root.walk(segments, 0, request)
        if chosen is None:
            return self._answers.no_such_path
        found, pattern = chosen
        if pattern.names or pattern.rest:
            request.params = _values(pattern, segments)
        return found

    def _less_exact(self, host: bytes) -> _Node[T] | None:
        dot = host.find(b".")
        return (self._wildcard.get(host[dot:]) if dot > 0 else None) or self._default


class _Node(Generic[T]):
    """What follows after some segments of a path."""

    def __init__(self) -> None:
        self._literal: dict[bytes, _Node[T]] = {}
        self._parameter: _Node[T] | None = None
        self._rest: Leaf[T] | None = None
        self._only: Leaf[T] | None = None
        self.prefix: Leaf[T] | None = None
        #: Set when this node's prefix is all there is.
        self.everything: Leaf[T] | None = None

    def add(self, route: Route[T]) -> None:
        node, pattern = self, route.pattern
        for segment in pattern.segments:
            if segment is None:
                node._parameter = node = node._parameter or _Node()
            else:
                node = node._literal.setdefault(segment, _Node())
        if pattern.rest is not None:
            node._rest = leaf = node._rest or Leaf()
        elif pattern.exact:
            node._only = leaf = node._only or Leaf()
        else:
            node.prefix = leaf = node.prefix or Leaf()
        leaf.add(route)

    def finish(self, method_not_allowed: Callable[[Iterable[bytes]], T]) -> None:
        below = (*self._literal.values(), *((self._parameter,) if self._parameter else ()))
        for node in below:
            node.finish(method_not_allowed)
        for leaf in (self._rest, self._only, self.prefix):
            if leaf is not None:
                leaf.finish(method_not_allowed)
        if not below and self._rest is None and self._only is None:
            self.everything = self.prefix

    def walk(self, segments: list[bytes], depth: int, request: Asked) -> Choice[T] | None:
        """Return the first choice below this node, whose path the first *depth* of *segments* are."""
        chosen = None
        # The path "/" has one segment, which is empty, and the pattern "/" none.
        if self._only is not None and (depth == len(segments) or (not depth and segments == [b""])):
            chosen = self._only.choose(request)
        if chosen is None and depth < len(segments):
            segment = segments[depth]
            if (node := self._literal.get(segment)) is not None:
                chosen = node.walk(segments, depth + 1, request)
            if chosen is None and self._parameter is not None and segment:
                chosen = self._parameter.walk(segments, depth + 1, request)
            if chosen is None and self._rest is not None:
                chosen = self._rest.choose(request)
        if chosen is None and self.prefix is not None:
            chosen = self.prefix.choose(request)
        return chosen


def _values(pattern: Pattern, segments: list[bytes]) -> dict[str, str]:
    """Return the parameters, decoded; bytes that are not UTF-8 become U+FFFD."""
    values = {name: segments[at] for name, at in pattern.names}
    if pattern.rest is not None:
        values[pattern.rest] = b"/".join(segments[len(pattern.segments) :])
    return {name: unquote_to_bytes(value).decode(errors="replace") for name, value in values.items()}
