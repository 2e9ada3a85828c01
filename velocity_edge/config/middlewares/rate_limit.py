"""`content.rate_limit`: how many requests a client may send. Short because only the guide's keys are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import Duration


class RateLimitRule(Section):
    """A limit of requests per client. (Not implemented yet.)"""

    limit: Annotated[int, Field(ge=1)]
    """Requests in each window."""
    window_s: Duration = Field(default=60.0, alias="window")
    """Length of the window."""

    def problems(self) -> Iterator[Problem]:
        """Yield that it is not implemented."""
        yield ("limit",), "cannot limit requests yet: leave rate_limit out"
