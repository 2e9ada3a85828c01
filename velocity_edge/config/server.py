"""`server`: where the node listens, with how many workers and which engine, and how it drains.

The sections below it have their own files: tls.py, telemetry.py, limits.py.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from velocity_edge.config.limits import LimitsSection
from velocity_edge.config.section import Problem, Section
from velocity_edge.config.telemetry import Telemetry
from velocity_edge.config.tls import Profiles, Tls
from velocity_edge.config.values import Address, Duration, Network, OneOrMore, Written, format_address, parse_address
from velocity_edge.errors import VelocityError
from velocity_edge.text.log_levels import parse_levels
from velocity_edge.wire.messages import Listener


def _levels(text: str) -> str:
    try:
        parse_levels(text)
    except VelocityError as error:
        raise ValueError(str(error)) from None
    return text


class DrainSection(Section):
    """How a worker, or the whole node, drains its connections."""

    timeout_s: Duration = Field(default=30.0, alias="timeout")
    """Connections that remain after this time are closed."""
    spread_s: Duration = Field(default=2.0, alias="spread")
    """GOAWAYs are spread over this time, so that clients do not reconnect all at once."""


class Server(Section):
    """The node: its addresses, workers, engine and limits."""

    listen: Annotated[list[Address], OneOrMore, Field(min_length=1, max_length=8)] = ["0.0.0.0:4433"]
    """UDP addresses to serve, one or a list. Port 0 takes a free one.

    `"[::]:443"` (with quotes in YAML) serves IPv6 and IPv4; beside an IPv4 listener on its port, IPv6 only. An address
    beside `0.0.0.0` or `[::]` of its own family, on the same port, is refused: the wildcard covers it.
    """
    tls: Tls = Tls()
    profiles: Profiles = Profiles()
    telemetry: Telemetry = Telemetry()
    limits: LimitsSection = LimitsSection()
    drain: DrainSection = DrainSection()
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Number of worker processes. Unset: one per CPU that the supervisor may use, within its control group's CPU quota.

    A reload and `admin scale` change it, up to the larger of the cores and the workers that the node was started with.
    """
    engine: Literal["auto", "native", "portable"] = "auto"
    """The QUIC engine: `native` (C, ngtcp2), `portable` (Python, aioquic), or `auto`: the best available one.

    A reload that changes it replaces the workers, one after the other.
    """
    congestion_control: Literal["cubic", "bbr", "reno"] = "cubic"
    """Congestion controller. `bbr` requires the native engine. A reload changes it for new connections."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged. A reload changes it."""
    log_levels: Annotated[str, AfterValidator(_levels), Written("levels")] = ""
    """Levels of single targets, such as `workers.proxy=debug,tls=warning` (docs/observability.md). A reload changes
    them, `velocity-edge admin log-level` for a time."""
    user: str | None = None
    """User of the workers when the supervisor runs as root. Unset: `velocity` where it exists, else `nobody`. Where
    root cannot change to either (docs/containers.md), workers keep user id 0, without capabilities; `status` shows it.

    A reload that changes it replaces the workers, one after the other.
    """
    node_id: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] | None = None
    """The node ID in connection IDs (QUIC-LB server ID). Unset: a random one, kept in the state directory."""
    trusted_proxies: Annotated[list[Network], OneOrMore, Field(max_length=256)] = []
    """Networks of proxies in front of this node. Only from these `x-forwarded-for` and `forwarded` are believed: the
    client is then the last address that is not in this list. From others the fields are replaced."""
    server_header: str = Field(default="velocity-edge", max_length=128, pattern=r"^[ -~]*$")
    """Value of the `server` response header. Empty: the header is not sent."""

    @property
    def addresses(self) -> list[Listener]:
        """The entries of `listen`, parsed."""
        return [parse_address(text) for text in self.listen]

    def problems(self) -> Iterator[Problem]:
        """Yield values that cannot be combined."""
        if self.congestion_control == "bbr" and self.engine == "portable":
            yield ("congestion_control",), "cannot be 'bbr' with the portable engine: must be 'cubic' or 'reno'"
        yield from _listener_problems(self.addresses)


def _listener_problems(listeners: Sequence[Listener]) -> Iterator[Problem]:
    """Two listeners cannot have the same address and port, nor one an address that another's wildcard covers.

    `[::]` beside an IPv4 listener on its port serves IPv6 only (supervisor/machine/sockets.py), so they can coexist.
    """
    for i, listener in enumerate(listeners):
        where, text = ("listen", str(i)), format_address(listener)
        address = ipaddress.ip_address(listener.host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            # Written here: which form str() gives such an address depends on Python's version.
            mapped, port = address.ipv4_mapped, listener.port
            expected = format_address(Listener(str(mapped), port))
            yield where, f"cannot listen on [::ffff:{mapped}]:{port}: it is IPv4-mapped; expected {expected}"
            continue
        for j, other in enumerate(listeners[:i]):
            before = ipaddress.ip_address(other.host)
            if other.port != listener.port or listener.port == 0 or before.version != address.version:
                continue
            if address == before:
                yield where, f"cannot listen on {text} twice: listen[{j}] is the same"
            elif before.is_unspecified or address.is_unspecified:
                wide, narrow = (other, listener) if before.is_unspecified else (listener, other)
                yield (
                    where,
                    f"cannot listen on {text} beside listen[{j}], {format_address(other)}: {format_address(wide)} "
                    f"covers {narrow.host}",
                )
            else:
                continue
            break
