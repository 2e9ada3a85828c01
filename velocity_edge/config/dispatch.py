"""`dispatch`: how packets reach their worker, and what the XDP shield lets through (bpf/)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from pydantic import Field

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import Network, OneOrMore

_COUNT = Annotated[int, Field(ge=1)]


class Dispatch(Section):
    """How packets find their worker (docs/life-of-a-packet.md)."""

    mode: Literal["auto", "socket-classic", "socket", "xdp", "xdp-cpumap"] = "auto"
    """The tier: A `socket-classic`, B `socket`, C `xdp`, D `xdp-cpumap`. `auto` takes the best available one and
    reports what is missing; a tier that is named and not available is an error."""
    interfaces: Annotated[list[str], OneOrMore] = []
    """Network interfaces to which the XDP shield is attached. Unset: those that have an explicit listen address."""
    initials_per_s: _COUNT = 2000
    """New connections per second that the shield lets through for one /24 or /56. Initials that continue a handshake,
    with a connection ID of this node, have four times as many."""
    initials_burst: _COUNT = 4000
    """How many of them may come at once."""
    slip: Annotated[int, Field(ge=0, le=1000)] = 8
    """One in this many Initials over the limit is answered with a Retry instead of being dropped. 0: none."""
    attack: bool = False
    """Let only packets pass that carry a connection ID of this node, and Initials; both within their limits."""
    deny: Annotated[list[Network], OneOrMore] = []
    """Networks whose packets to a listener the shield drops, such as 192.0.2.0/24."""

    @property
    def denied(self) -> list[IPv4Network | IPv6Network]:
        """The entries of `deny`, parsed."""
        return [ip_network(text) for text in self.deny]

    def problems(self) -> Iterator[Problem]:
        """Yield a burst that is too small for the rate."""
        if self.initials_burst < self.initials_per_s // 1000 + 1:
            yield ("initials_burst",), "cannot be less than a thousandth of initials_per_s: must last for 1 ms"
