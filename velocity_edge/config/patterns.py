"""The paths of routes: `/api`, `/users/{id}`, `/files/{rest...}`. Pure.

A pattern is a list of segments: literal ones, parameters, and at its end possibly a parameter for all that follows. It
is a prefix of whole segments unless the route is `exact`. Literal segments are kept in the form in which requests are
compared (velocity_edge/http/paths.py). workers/serve/router.py finds the pattern for a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator

from velocity_edge.config.values import Written
from velocity_edge.http.paths import AmbiguousPath, segments_of

#: More segments than any path that people write; the router's walk is bounded by the number of routes anyway.
_MAX_SEGMENTS: Final = 32
_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})(\.\.\.)?\}")
_EXPECTED: Final = "must be a path as in a request, such as /api, /a%20b, /users/{id} or /files/{rest...}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """The parsed path of a route. `text` is as the configuration has it, without a final slash unless it counts."""

    text: str
    #: None is a parameter: any segment that is not empty.
    segments: tuple[bytes | None, ...]
    #: Names of the parameters, with the position of their segment.
    names: tuple[tuple[str, int], ...] = ()
    #: Name of the parameter for everything below; it may be empty.
    rest: str | None = None
    exact: bool = False

    @property
    def shape(self) -> tuple[tuple[bytes | None, ...], bool, bool]:
        """What paths it matches, whatever its parameters are called: patterns of one shape match the same paths."""
        return self.segments, self.rest is not None, self.exact

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters."""
        return (*(name for name, _ in self.names), *((self.rest,) if self.rest else ()))


def parse_pattern(text: str, *, exact: bool = False) -> Pattern:
    """Return the pattern that *text* means. Raises `ValueError`."""
    if not re.fullmatch(r"/[!-~]*", text) or "?" in text or "#" in text:
        raise ValueError(f"cannot use {text!r}: {_EXPECTED}")
    parts = text[1:].split("/")
    if not parts[-1] and (not exact or len(parts) == 1):
        parts.pop()
    if len(parts) > _MAX_SEGMENTS:
        raise ValueError(f"cannot use {text!r}: more than {_MAX_SEGMENTS} segments")
    segments: list[bytes | None] = []
    names: dict[str, int] = {}
    rest: str | None = None
    for i, part in enumerate(parts):
        found = _PARAMETER.fullmatch(part)
        if found is None:
            segments.append(_literal(text, part, last=i == len(parts) - 1))
            continue
        if found[1] in names:
            raise ValueError(f"cannot use {text!r}: two parameters are called {found[1]!r}")
        if not found[2]:
            names[found[1]] = len(segments)
            segments.append(None)
            continue
        if i != len(parts) - 1:
            raise ValueError(f"cannot use {text!r}: {part} must be its last segment")
        rest = found[1]
    return Pattern("/" + "/".join(parts), tuple(segments), tuple(names.items()), rest, exact and rest is None)


def _literal(text: str, part: str, *, last: bool) -> bytes:
    if "{" in part or "}" in part:
        raise ValueError(
            f"cannot use {text!r}: a parameter is a whole segment with a name, such as {{id}} or {{rest...}}"
        )
    if not part and last:
        return b""
    try:
        (segment,) = segments_of(b"/" + part.encode())
    except AmbiguousPath:
        raise ValueError(f"cannot use {text!r}: no request has the segment {part!r}") from None
    if not segment:
        raise ValueError(f"cannot use {text!r}: no request has the segment {part!r}")
    return segment


def _pattern(value: str) -> str:
    parse_pattern(value)
    return value


#: Percent-encoded, without the query; `parse_pattern` parses it.
PathPattern = Annotated[str, AfterValidator(_pattern), Written("path of requests")]
