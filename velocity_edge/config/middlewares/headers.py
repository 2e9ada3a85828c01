"""`kind: headers`: fields of requests and responses that are set, added or removed.

Changes of a request are what an upstream gets; files and fixed answers do not read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from velocity_edge.config.middlewares.base import MiddlewareSection
from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import OneOrMore

#: RFC 9110 section 5.1: a field name is a token.
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Lengths, dates and framing are the server's; the others are connection-specific (RFC 9114 section 4.2).
_RESERVED: Final = frozenset(
    (
        "content-length",
        "date",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "te",
        "trailer",
        "host",
    )
)
Value = Annotated[str, Field(pattern=r"^[ -~]*$", max_length=8192)]


class Changes(Section):
    """Changes of the fields of a message, in this order: remove, set, add, default."""

    remove: Annotated[list[str], OneOrMore] = []
    """Names of fields that are removed."""
    set: dict[str, Value] = {}
    """Fields that replace all fields of that name."""
    add: dict[str, Value] = {}
    """Fields in addition to others of that name."""
    default: dict[str, Value] = {}
    """Fields that are set only where there is none of that name."""

    def problems(self) -> Iterator[Problem]:
        """Yield names that are no field names, and fields that only the server may set."""
        for key, names in (("remove", self.remove), ("set", self.set), ("add", self.add), ("default", self.default)):
            for name in names:
                if not _FIELD_NAME.fullmatch(name):
                    yield (key,), f"cannot use {name!r}: must be a field name such as cache-control"
                elif name.lower() in _RESERVED:
                    yield (key,), f"cannot change {name!r}: the server sets it, or HTTP/3 does not allow it"


class RequestChanges(Changes):
    """Changes of the request that goes to an upstream."""

    def problems(self) -> Iterator[Problem]:
        """Yield what cannot be done to a request."""
        yield from super().problems()
        if self.default:
            yield ("default",), "cannot be used for requests: use set or add"


class Headers(MiddlewareSection):
    """`kind: headers`: changes of the fields of requests and responses."""

    kind: Literal["headers"]
    """`headers`"""
    request: RequestChanges = RequestChanges()
    response: Changes = Changes()
