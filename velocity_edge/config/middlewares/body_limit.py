"""`kind: body_limit`: how large request bodies may be. Short because it is one key; what happens to larger ones is
decided in workers/middleware/body_limit.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection
from velocity_edge.config.values import Size


class BodyLimit(MiddlewareSection):
    """`kind: body_limit`: requests with a larger body are answered with 413.

    `server.limits.max_request_body` is the bound without it; a body limit can be below or above.
    """

    layer: ClassVar[Layer] = Layer.BODY

    kind: Literal["body_limit"]
    """`body_limit`"""
    max_body_bytes: Size = Field(alias="max_body")
    """Largest body. 0: none is accepted."""
