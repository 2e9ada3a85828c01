"""`kind: compress`: which responses are compressed on the fly. How is decided in workers/middleware/compress.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection
from velocity_edge.config.section import Problem
from velocity_edge.config.values import OneOrMore, Size, Written

_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/([a-z0-9!#$&^_.+-]+|\*)|\*/\*|\+[a-z0-9]+")


def _media_type(value: str) -> str:
    if not _TYPE.fullmatch(value.lower()):
        raise ValueError(f"cannot use {value!r}: must be a media type such as text/html, text/*, or +json for a suffix")
    return value.lower()


MediaType = Annotated[str, AfterValidator(_media_type), Written("media type")]


class Compress(MiddlewareSection):
    """`kind: compress`: responses are compressed for clients that accept it (zstd, gzip).

    Files with a precompressed sidecar are sent as they are. A page that contains both a secret and text from its
    request should not be compressed (BREACH attack): see docs/edge-policies.md.
    """

    layer: ClassVar[Layer] = Layer.COMPRESSION

    kind: Literal["compress"]
    """`compress`"""
    codings: Annotated[list[Literal["zstd", "gzip"]], OneOrMore, Field(min_length=1)] = ["zstd", "gzip"]
    """Content codings, the preferred one first."""
    level: Annotated[int, Field(ge=1, le=9)] = 3
    """From 1 (fast) to 9 (small)."""
    minimum_bytes: Size = Field(default=512, alias="minimum")
    """Smaller responses are not compressed."""
    types: Annotated[list[MediaType], OneOrMore] = [
        "text/*",
        "application/json",
        "application/javascript",
        "application/xml",
        "application/wasm",
        "application/manifest+json",
        "+json",
        "+xml",
        "font/ttf",
        "font/otf",
        "image/bmp",
    ]
    """Media types that are compressed. `text/event-stream` is only if it is listed by its full name."""

    def problems(self) -> Iterator[Problem]:
        """Yield a coding that is listed twice."""
        if len(set(self.codings)) != len(self.codings):
            yield ("codings",), "cannot list a coding twice"
