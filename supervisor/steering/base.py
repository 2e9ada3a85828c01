"""What the supervisor asks of steering, whatever the tier (docs/architecture.md: slot, worker id, tier).

Every call takes effect for the next packet and needs no rights that the node had to keep: after `open_steering` the
supervisor may drop its capabilities.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from velocity_edge.wire.cid import CidConfig

Network = IPv4Network | IPv6Network


class Tier(StrEnum):
    """How steering is done; each includes what the one before it does."""

    A = "socket-classic"
    B = "socket-ebpf"
    C = "xdp"
    D = "xdp-cpumap"


class Steering(Protocol):
    """Which slot a datagram goes to."""

    tier: Tier
    #: In plain words, what the next tier would need; empty for the last one.
    missing: str
    #: Programs and tables of an earlier supervisor are in use, with all the workers it had lent.
    adopted: bool
    #: Interface -> "native" or "generic", where XDP is attached.
    interfaces: dict[str, str]

    def lend(self, worker_id: int, slot: int, cpu: int) -> None:
        """Packets for this worker id go to this slot."""

    def lent(self) -> list[int]:
        """Return the worker ids that lead to a slot: an earlier supervisor may have lent some that nobody knows of."""

    def forget(self, worker_id: int) -> None:
        """Nobody has this worker id."""

    def accept(self, worker_ids: list[int]) -> None:
        """New connections go to these workers (lent ones), in equal parts, with as few moves as possible.

        Datagrams of a handshake in flight stay with the worker that has it, except in tier A.
        """

    def use_cid_configs(self, configs: list[CidConfig]) -> None:
        """Ids of these configurations decode from now on, and no others."""

    def limits(self, *, initials_per_s: int, burst: int, slip: int, attack: bool) -> None:
        """Bound new connections per /24 or /56: so many a second after *burst* at once; 0 for no limit.

        One in *slip* of those over the limit passes marked, to be answered with a Retry; 0 for none. Initials with a
        token have the same bound for themselves, 0-RTT packets eight times, unknown versions an eighth of it, Initials
        and 0-RTT with an id of a worker four times; of these, each id also has 64 a second for itself.
        *attack*: what neither decodes nor is an Initial within its bound is dropped. Tiers A and B ignore all this.
        """

    def deny(self, networks: list[Network]) -> None:
        """Drop what these networks send to a listener, and nothing from any other. Tiers A and B ignore it.

        Fragments and headers that hide their port count as sent to a listener when the address is one's.
        """

    def counters(self) -> dict[str, dict[str, int]]:
        """Return stage -> verdict -> packets (bpf/verdicts.py). Empty in tier A."""

    def release(self) -> None:
        """Let go of the descriptors and leave everything at work, for a successor to adopt."""

    def detach(self) -> None:
        """Leave no trace: no program on an interface or a socket, no pin."""
