"""`content.routes[].match`: which requests a route is for: path, methods, host and header fields.

Which of several routes wins is decided by workers/serve/router.py; routes.py refuses two that match the same requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from velocity_edge.config.patterns import PathPattern, Pattern, parse_pattern
from velocity_edge.config.regexes import Expression
from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import Hostname, Method, OneOrMore

#: RFC 9110 section 5.1: a field name is a token.
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class HeaderMatch(Section):
    """A condition on one field. Text alone is `exact`, true or false alone is `present`."""

    exact: str | None = None
    """The value that the field must have."""
    regex: Expression | None = None
    """An expression that the whole value must match; values above 512 bytes do not. What could take very long, such as
    a repetition inside of a repetition, is refused."""
    present: bool | None = None
    """Whether the field must be there (true) or absent (false)."""

    def problems(self) -> Iterator[Problem]:
        """Yield several conditions in one, or none."""
        if sum(one is not None for one in (self.exact, self.regex, self.present)) != 1:
            yield (), "cannot be used: must have one of exact, regex and present"


def _condition(value: Any) -> Any:
    if isinstance(value, bool):
        return {"present": value}
    return {"exact": value} if isinstance(value, str) else value


class Match(Section):
    """Which requests a route is for. The most specific route wins: paths are compared segment by segment from the left,
    a literal segment before a parameter before the end of the path, and `exact` before a prefix; for one path, the
    route with more `headers` conditions."""

    path: PathPattern
    """Prefix of the path, in whole segments: `/api` matches `/api` and `/api/x`, not `/apix`. `{id}` is any one
    segment, `{rest...}` at the end everything below."""
    exact: bool = False
    """Match the path alone and nothing below it."""
    host: Annotated[list[Hostname], OneOrMore] = []
    """Host names. Unset: those of every site and proxy (every name when there are none)."""
    methods: Annotated[list[Method], OneOrMore] = []
    """Methods that it answers, such as GET or POST; GET includes HEAD, and WebSocket. Others get a 405. Unset: every
    method."""
    headers: dict[str, Annotated[HeaderMatch, BeforeValidator(_condition)]] = Field(default={}, max_length=8)
    """Conditions on fields of the request: `x-beta: "1"`, `x-beta: true`, `x-beta: {regex: "[12]"}`. If one does not
    hold, the next less specific route is used."""

    @property
    def pattern(self) -> Pattern:
        """`path`, parsed."""
        return parse_pattern(self.path, exact=self.exact)

    def problems(self) -> Iterator[Problem]:
        """Yield names that are no field names."""
        for name in self.headers:
            if not _FIELD_NAME.fullmatch(name):
                yield ("headers",), f"cannot use {name!r}: must be a field name such as x-beta"
        if len({name.lower() for name in self.headers}) != len(self.headers):
            yield ("headers",), "cannot name a field twice: upper and lower case do not matter"
