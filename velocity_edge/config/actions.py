"""`content.routes[].action`: what is done with a request, one section for each `type`.

Each has only its own keys: the model refuses a key of another type. Sites and proxies (content.py) are actions, too.
Each action becomes a handler in workers/handlers/build.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.upstreams import Upstream

#: RFC 9110 section 5.1: a field name is a token.
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Lengths and dates are set by the server; the others are connection-specific and malformed in HTTP/3 (RFC 9114
#: section 4.2).
_RESERVED_FIELDS: Final = frozenset(
    ("content-length", "date", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te")
)
#: Statuses of which a response has no body (RFC 9110).
_WITHOUT_BODY: Final = (204, 205, 304)

Status = Annotated[int, Field(ge=200, le=599)]
Fields = dict[str, Annotated[str, Field(pattern=r"^[ -~]*$")]]


class FixedAnswer(Section):
    """`type: static`: a fixed answer, sent when the request is complete."""

    type: Literal["static"]
    """`static`"""
    status: Status = 200
    """Status of the answer."""
    body: str = ""
    """Body of the answer, as UTF-8."""
    headers: Fields = {}
    """Fields of the answer. Without a `content-type`, a body is plain text."""

    def problems(self) -> Iterator[Problem]:
        """Yield a body or a field that such an answer cannot have."""
        if self.status in _WITHOUT_BODY and self.body:
            yield ("body",), f"cannot be combined with status {self.status}: that status has no body (RFC 9110)"
        yield from _field_problems(self.headers)


class ProxyAction(Upstream):
    """`type: proxy`: requests are forwarded to an upstream."""

    type: Literal["proxy"]
    """`proxy`"""


def _field_problems(headers: Mapping[str, str]) -> Iterator[Problem]:
    for name in headers:
        if not _FIELD_NAME.fullmatch(name):
            yield ("headers",), f"cannot use {name!r}: must be a field name such as cache-control"
        elif name.lower() in _RESERVED_FIELDS:
            yield ("headers",), f"cannot set {name!r}: the server sets it, or HTTP/3 does not allow it"
