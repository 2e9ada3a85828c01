"""`kind: ip`: which client addresses are answered. Addresses are compared in workers/middleware/ip.py."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection
from velocity_edge.config.section import Problem
from velocity_edge.config.values import Network, OneOrMore


class IpLists(MiddlewareSection):
    """`kind: ip`: only some client addresses are answered, others get a 403. `deny` takes precedence over `allow`.

    The address is the client's, or what a trusted proxy says that it is.
    """

    layer: ClassVar[Layer] = Layer.NETWORKS

    kind: Literal["ip"]
    """`ip`"""
    allow: Annotated[list[Network], OneOrMore, Field(max_length=10_000)] = []
    """Networks that are answered, such as 192.0.2.0/24. Unset: all that `deny` does not name."""
    deny: Annotated[list[Network], OneOrMore, Field(max_length=10_000)] = []
    """Networks that are not answered."""
    status: Annotated[int, Field(ge=400, le=599)] = 403
    """Status of the refusal."""

    def problems(self) -> Iterator[Problem]:
        """Yield lists that decide nothing, and networks that no client address is in."""
        if not self.allow and not self.deny:
            yield ("allow",), "cannot be empty together with deny: name a network in one of them"
        for key in ("allow", "deny"):
            for i, text in enumerate(getattr(self, key)):
                network = ipaddress.ip_network(text)
                mapped = network.network_address
                if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped and network.prefixlen >= 96:
                    expected = f"{mapped.ipv4_mapped}/{network.prefixlen - 96}"
                    yield (key, str(i)), f"cannot be {text}: IPv4 clients have IPv4 addresses; expected {expected}"
