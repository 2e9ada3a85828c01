"""`kind: security_headers`: fields that make browsers careful. They are sent by workers/middleware/headers.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection
from velocity_edge.config.section import Problem

Value = Annotated[str, Field(pattern=r"^[ -~]*$", max_length=8192)]


class SecurityHeaders(MiddlewareSection):
    """`kind: security_headers`: fields that make browsers careful, unless the response has them. Empty ones are not
    sent.

    Around a site it replaces the fields that `security_headers` of the site adds.
    """

    layer: ClassVar[Layer] = Layer.SECURITY

    kind: Literal["security_headers"]
    """`security_headers`"""
    strict_transport_security: Value = ""
    """HSTS, such as `max-age=31536000; includeSubDomains`. Browsers remember it: the name must never again be served
    without TLS."""
    content_security_policy: Value = ""
    """What a page may load; only its author knows."""
    x_content_type_options: Value = "nosniff"
    """`nosniff`: browsers believe the media type."""
    x_frame_options: Value = "SAMEORIGIN"
    """Which pages may frame this one."""
    referrer_policy: Value = "strict-origin-when-cross-origin"
    """What links tell other sites."""
    permissions_policy: Value = ""
    """Which features of the browser a page may use."""
    cross_origin_opener_policy: Value = ""
    """Whether windows of other origins may refer to this one."""
    cross_origin_embedder_policy: Value = ""
    """Whether a page may embed what has not agreed to it."""
    cross_origin_resource_policy: Value = ""
    """Which pages may embed this response."""

    def problems(self) -> Iterator[Problem]:
        """Yield an HSTS value that browsers ignore (RFC 6797 section 6.1)."""
        value = self.strict_transport_security
        if value and not re.search(r"(^|;)\s*max-age\s*=\s*\"?\d+\"?\s*(;|$)", value, re.IGNORECASE):
            yield ("strict_transport_security",), f"cannot be {value!r}: must have max-age=SECONDS (RFC 6797)"

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Return the fields that are sent."""
        known = MiddlewareSection.model_fields.keys() | {"kind"}
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in known}
        return [(name.replace("_", "-").encode(), value.encode()) for name, value in values.items() if value]
