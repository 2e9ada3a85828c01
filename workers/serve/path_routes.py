"""The routes of one path: under which conditions and for which methods each of them answers. Pure.

Routes of one path differ in their header conditions or in their methods. The ones with more conditions are asked first;
when none has the method but the conditions of one hold, the answer is 405 (RFC 9110 section 15.5.6). router.py finds
the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from velocity_edge.config.patterns import Pattern

T = TypeVar("T")


class Asked(Protocol):
    """The part of a request that routes look at; `params` is set to the parameters of the path."""

    host: bytes
    path: bytes
    method: bytes
    protocol: bytes
    params: Mapping[str, str]

    def header(self, name: bytes) -> bytes | None:
        """Return the field's value; None when absent."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a field of the request, whose name is in lower case."""

    name: bytes
    holds: Callable[[bytes | None], bool]


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """Requests for `host` whose path matches `pattern`."""

    host: str
    pattern: Pattern
    found: T
    #: Without any: every method.
    methods: Sequence[bytes] = ()
    conditions: tuple[Condition, ...] = ()
    #: Routes of one pattern whose conditions have the same key are one entry.
    key: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """What is found when no route matches."""

    no_such_host: T
    no_such_path: T
    ambiguous_path: T
    #: By the methods that the path has.
    method_not_allowed: Callable[[Iterable[bytes]], T]


_NAMELESS: Final = Pattern("", ())


#: What is found, and the pattern that names the parameters.
Choice = tuple[T, Pattern]


@dataclass(slots=True)
class _Variant(Generic[T]):
    """The routes of one pattern under the same conditions."""

    conditions: tuple[Condition, ...]
    by_method: dict[bytes, Choice[T]] = field(default_factory=dict)
    #: For methods that `by_method` does not have.
    other: Choice[T] | None = None


class Leaf(Generic[T]):
    """All routes of one pattern."""

    def __init__(self) -> None:
        self._variants: dict[tuple[object, ...], _Variant[T]] = {}
        self._in_order: tuple[_Variant[T], ...] = ()
        self._refused: Choice[T] | None = None
        #: Without conditions: what answers each method, and all others.
        self._plain: dict[bytes, Choice[T]] | None = None
        self._other: Choice[T] | None = None

    def add(self, route: Route[T]) -> None:
        """Add a route of this path. Raises ValueError when an earlier one answers the same requests."""
        variant = self._variants.setdefault(route.key, _Variant(route.conditions))
        choice = (route.found, route.pattern)
        if variant.other is not None or any(method in variant.by_method for method in route.methods):
            raise ValueError(f"two routes for {route.host}{route.pattern.text}")
        if route.methods:
            variant.by_method |= dict.fromkeys(route.methods, choice)
        elif variant.by_method:
            raise ValueError(f"two routes for {route.host}{route.pattern.text}")
        else:
            variant.other = choice

    def finish(self, method_not_allowed: Callable[[Iterable[bytes]], T]) -> None:
        """Put the routes in order; no more are added."""
        # A sort keeps the order of equals.
        self._in_order = tuple(sorted(self._variants.values(), key=lambda variant: -len(variant.conditions)))
        methods: set[bytes] = set()
        for variant in self._in_order:
            if b"GET" in variant.by_method:
                variant.by_method.setdefault(b"HEAD", variant.by_method[b"GET"])
            methods |= variant.by_method.keys()
        self._refused = (method_not_allowed(sorted(methods)), _NAMELESS)
        if len(self._in_order) == 1 and not self._in_order[0].conditions:
            self._plain, self._other = self._in_order[0].by_method, self._in_order[0].other or self._refused

    def choose(self, request: Asked) -> Choice[T] | None:
        """Return what answers *request*, which may be a 405; None when no conditions hold."""
        method = request.method
        if method == b"CONNECT" and request.protocol:
            method = b"GET"  # RFC 9220: an extended CONNECT is what GET with `upgrade` is in HTTP/1.1
        if self._plain is not None:
            return self._plain.get(method, self._other)
        refused = None
        for variant in self._in_order:
            if variant.conditions and not all(one.holds(request.header(one.name)) for one in variant.conditions):
                continue
            chosen = variant.by_method.get(method, variant.other)
            if chosen is not None:
                return chosen
            refused = self._refused
        return refused
