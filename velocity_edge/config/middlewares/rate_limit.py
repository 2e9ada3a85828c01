"""`kind: rate_limit`, and `content.rate_limit`: how many requests of one client are answered.

How they are counted is decided in workers/middleware/quota.py and rate_limit.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection
from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import Duration, Written

#: As workers/middleware/quota.py can count.
_MAX: Final = (1 << 24) - 1
_KEY: Final = re.compile(r"ip|route|global|header[: ][!#$%&'*+.^_`|~0-9A-Za-z-]+|claim[: ][!-~]+")
_HINT: Final = "must be ip, route, global, `header NAME` or `claim NAME`"


def _key(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError(f"cannot use {value!r}: {_HINT}")
    kind, found, name = value.partition(" ") if " " in value else value.partition(":")
    return f"{kind} {name}" if found else kind


class RateLimitRule(Section):
    """At most so many requests in a period of time; others are answered with 429 and `retry-after`.

    All workers of a node count together. Counts continue through reloads as long as the rule is unchanged.
    """

    limit: Annotated[int, Field(ge=1, le=_MAX)]
    """Requests that are answered in any period of `window`."""
    window_s: Duration = Field(alias="window")
    """The period, from 100ms to 30d."""
    burst: Annotated[int, Field(ge=1, le=_MAX)] | None = None
    """Set: a bucket of this many requests, filled evenly with `limit` per `window`. Unset: a sliding window."""
    key: Annotated[str, AfterValidator(_key), Written("ip, route, global, `header NAME` or `claim NAME`")] = "ip"
    """What has a count of its own: an IPv4 address or IPv6 /64, a route, everything together, or each value of a
    request header or of a claim that authentication found. Requests without that header or claim count by address.

    Clients choose the values of headers freely: use `header` behind a middleware that checks them.
    """
    status: Annotated[int, Field(ge=400, le=599)] = 429
    """Status of the refusal."""

    def problems(self) -> Iterator[Problem]:
        """Yield what cannot be counted."""
        if not 0.1 <= self.window_s <= 30 * 86400:
            yield ("window",), f"cannot be {self.window_s:g}s: must be from 100ms to 30d"
        elif self.burst is not None and self.limit > 10_000 * self.window_s:
            yield ("limit",), "cannot be above 10000 per second with a burst: leave burst out"


class RateLimit(RateLimitRule, MiddlewareSection):
    """`kind: rate_limit`: at most so many requests in a period of time; others are answered with 429."""

    layer: ClassVar[Layer] = Layer.RATE_LIMIT

    kind: Literal["rate_limit"]
    """`rate_limit`"""

    def place(self) -> Layer:
        """Return the layer: by claims, it is inside of the authentication that finds them."""
        return Layer.BODY if self.key.startswith("claim ") else self.layer
