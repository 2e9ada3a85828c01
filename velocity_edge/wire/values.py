"""Values inside the messages between supervisor and worker. Some of them are stored in state.json, too.

They grow by the rules in messages.py: a new field has a default, an unknown field is ignored.
"""

from __future__ import annotations

from dataclasses import field
from typing import Final, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

#: How every message and value is read and written.
WIRE: Final = ConfigDict(extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

#: The kind of a listener's sockets. "tcp" is reserved: no version opens it yet.
Transport = Literal["udp", "tcp"]


@dataclass(frozen=True, slots=True, config=WIRE)
class Listener:
    """An address that is served. `port` is the bound port, also where 0 is configured.

    `transport` is left out for UDP, so that versions before this field write and read the same. Such a version ignores
    the field and takes every listener for UDP: it must not be sent a listener with another transport.
    """

    host: str
    port: int
    transport: Transport = Field(default="udp", exclude_if=lambda transport: transport == "udp")


@dataclass(frozen=True, slots=True, config=WIRE)
class Epoch:
    """One row of the epoch table (velocity_edge/keys/table.py): the root of every key of that epoch."""

    epoch: int
    created_s: float
    root: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, config=WIRE)
class KeyedChain:
    """A certificate chain (PEM, leaf first), its private key (PEM), and the ALPNs that it is sent to (None: all)."""

    name: str
    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)
    audience: list[str] | None = None


@dataclass(frozen=True, slots=True, config=WIRE)
class OpenConnection:
    """An open connection: the site that its client asked for (SNI), its age, its running requests."""

    site: str
    age_s: float
    requests: int


@dataclass(frozen=True, slots=True, config=WIRE)
class Left:
    """What is left of a draining worker. `told`: connections that were sent both GOAWAYs; `oldest`: a sample."""

    told: int
    #: Running requests on all connections.
    running: int
    oldest: list[OpenConnection]
