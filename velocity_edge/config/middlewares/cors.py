"""`kind: cors`: which pages of other origins may read responses (Fetch standard, CORS protocol).

How preflights are answered is decided in workers/middleware/cors.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection
from velocity_edge.config.section import Problem
from velocity_edge.config.values import Duration, Method, OneOrMore, Written

_ORIGIN: Final = re.compile(
    r"\*|null|[a-z][a-z0-9+.-]*://(\*\.)?([a-z0-9_-]+\.)*[a-z0-9_-]+(:\d{1,5})?|[a-z][a-z0-9+.-]*://\[[0-9a-f:]+\](:\d{1,5})?"
)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _origin(value: str) -> str:
    text = value.lower()
    if not _ORIGIN.fullmatch(text):
        raise ValueError(
            f"cannot use {value!r}: must be an origin as browsers send it, such as https://app.example.com, with "
            'https://*.example.com for its subdomains, or "*"'
        )
    # Browsers leave default ports out.
    return re.sub(r"^(https://.*):443$|^(http://.*):80$", lambda found: found[1] or found[2], text)


def _field(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"cannot use {value!r}: must be a field name such as content-type")
    return value.lower()


_Origin = Annotated[str, AfterValidator(_origin), Written("origin")]
_Field = Annotated[str, AfterValidator(_field), Written("field name")]


class Cors(MiddlewareSection):
    """`kind: cors`: pages of these origins may read responses, and may send what would need a preflight."""

    layer: ClassVar[Layer] = Layer.CORS

    kind: Literal["cors"]
    """`cors`"""
    origins: Annotated[list[_Origin], OneOrMore, Field(min_length=1, max_length=1000)]
    """`https://app.example.com`, `https://*.example.com` for all subdomains, or `*` for every origin."""
    methods: Annotated[list[Method], OneOrMore] = ["GET", "HEAD", "POST"]
    """Methods that a preflight permits."""
    headers: Annotated[list[_Field], OneOrMore] = []
    """Request headers that a preflight permits; `*` for all (with credentials: those that it asks for)."""
    expose: Annotated[list[_Field], OneOrMore] = []
    """Response headers that pages may read beside the basic ones."""
    credentials: bool = False
    """Whether cookies and certificates of the client may be used. Not with every origin (`*`)."""
    max_age_s: Duration = Field(default=600.0, alias="max_age")
    """How long a browser may remember a preflight."""

    def problems(self) -> Iterator[Problem]:
        """Yield what would let every page act as its reader."""
        if self.credentials:
            for i, origin in enumerate(self.origins):
                if origin in ("*", "null"):
                    yield (
                        ("origins", str(i)),
                        f"cannot be {origin!r} with credentials: any page could act as its reader; name the origins",
                    )
            if "*" in self.expose:
                yield ("expose",), "cannot be '*' with credentials (Fetch standard): name the headers"
