"""`kind: forward_auth`: another server decides about each request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from velocity_edge.config.middlewares.identity import Authentication, FieldName, Url, insecure_urls, names_of
from velocity_edge.config.section import Need, Problem
from velocity_edge.config.values import AbsolutePath, Duration, OneOrMore


class ForwardAuth(Authentication):
    """`kind: forward_auth`: a server is asked about each request, without its body; a 2xx lets it pass."""

    kind: Literal["forward_auth"]
    """`forward_auth`"""
    url: Url
    """The server that decides. It gets a GET with the fields of the request and X-Forwarded-Method, -Proto, -Host,
    -Uri and -For."""
    copy_fields: Annotated[list[FieldName], OneOrMore] = Field(default=[], alias="copy")
    """Fields of its answer that upstreams get, such as x-user. Those from the client are removed, on every route."""
    trust: Annotated[list[Annotated[int, Field(ge=200, le=299)]], Field(max_length=100)] = []
    """Statuses that let a request pass. Unset: every 2xx."""
    timeout_s: Duration = Field(default=5.0, alias="timeout")
    """Until its answer is complete; then the client gets a 503."""
    ca: AbsolutePath | None = None
    """Certificate authorities for `url` (PEM). Unset: those of this system."""
    insecure: bool = False
    """Permit a `url` without TLS that is not on this machine."""

    def problems(self) -> Iterator[Problem]:
        """Yield an address without TLS, and a time-out that nobody waits for."""
        yield from insecure_urls({"url": self.url}, insecure=self.insecure)
        if not 0.05 <= self.timeout_s <= 60:
            yield ("timeout",), "cannot be used: expected 50ms to 1m"

    def asserts(self) -> Sequence[str]:
        """Return the fields that are copied."""
        return self.copy_fields

    def needs(self) -> Iterator[Need]:
        """Yield the file with certificate authorities."""
        if self.ca is not None:
            yield Need(self.ca, "file", ("ca",))
        yield from names_of("url", self.url)
