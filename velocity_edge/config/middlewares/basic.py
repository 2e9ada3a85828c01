"""`kind: basic`: names and passwords (RFC 7617) from a file. Short because what an entry is has its own file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from velocity_edge.config.middlewares.identity import Authentication, FieldName
from velocity_edge.config.section import Need
from velocity_edge.config.values import AbsolutePath


class Basic(Authentication):
    """`kind: basic`: requests need a name and a password."""

    kind: Literal["basic"]
    """`basic`"""
    users: AbsolutePath
    """File with `name:hash` lines, which `velocity-edge password NAME` makes (scrypt; PBKDF2 is read, too)."""
    realm: Annotated[str, Field(pattern=r"^[ !#-\[\]-~]{1,128}$")] = "velocity-edge"
    """What browsers show when they ask for the password."""
    user_field: FieldName | None = None
    """The field in which upstreams get the name, such as x-user. One from the client is removed, on every route."""
    hide_credentials: bool = True
    """Do not pass the password on to upstreams."""
    max_failures: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Wrong passwords per minute from one address (IPv6: one /64) in each worker; then it gets 429 for a time."""

    def asserts(self) -> Sequence[str]:
        """Return the field with the name."""
        return [] if self.user_field is None else [self.user_field]

    def needs(self) -> Iterator[Need]:
        """Yield the file."""
        yield Need(self.users, "file", ("users",))
