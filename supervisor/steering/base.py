"""The interface of steering for the supervisor, the same in every tier (docs/architecture.md: slot, worker id, tier).

Every call takes effect for the next packet and needs no capability: after `open_steering` the supervisor may drop all.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from velocity_edge.wire.cid import CidConfig

Network = IPv4Network | IPv6Network


class Tier(StrEnum):
    """The means of steering; each tier includes the one before it."""

    A = "socket-classic"
    B = "socket-ebpf"
    C = "xdp"
    D = "xdp-cpumap"


class Steering(Protocol):
    """Decides which slot a datagram goes to."""

    tier: Tier
    #: What the next tier needs, for display; empty for the last tier.
    missing: str
    #: Programs and tables of an earlier supervisor are in use, with all worker ids in them.
    adopted: bool
    #: Interface -> "native" or "generic", where XDP is attached.
    interfaces: dict[str, str]

    def lend(self, worker_id: int, slot: int, cpu: int) -> None:
        """Steer packets for this worker id to this slot."""

    def lent(self) -> list[int]:
        """Return the worker ids that lead to a slot, also those that only an earlier supervisor has entered."""

    def forget(self, worker_id: int) -> None:
        """Remove a worker id: no worker has it."""

    def accept(self, worker_ids: list[int]) -> None:
        """Spread new connections equally over these workers (entered by `lend`), with as few changes as possible.

        Datagrams of a handshake in flight stay with its worker, except in tier A.
        """

    def use_cid_configs(self, configs: list[CidConfig]) -> None:
        """Decode connection IDs of these configurations from now on, and no others."""

    def limits(self, *, initials_per_s: int, burst: int, slip: int, attack: bool) -> None:
        """Limit new connections per /24 or /56 to this rate, after *burst* at once; 0 for no limit.

        One in *slip* of the packets over the limit passes, marked to be answered with a Retry; 0 for none. Initials
        with a token have the same limit for themselves, 0-RTT packets eight times, unknown versions an eighth of it,
        Initials and 0-RTT with an ID of a worker four times; each such ID also has a limit of 64 per second.
        *attack*: packets that neither decode nor are an Initial within its limit are dropped. Tiers A and B ignore all
        this.
        """

    def deny(self, networks: list[Network]) -> None:
        """Drop packets from these networks to a listener, and from no others. Tiers A and B ignore it.

        A fragment or a packet whose port cannot be read counts as sent to a listener when its address is a listener's.
        """

    def counters(self) -> dict[str, dict[str, int]]:
        """Return stage -> verdict -> packets (bpf/verdicts.py). Empty in tier A."""

    def release(self) -> None:
        """Close the descriptors and leave everything attached, for a successor to adopt."""

    def detach(self) -> None:
        """Remove everything: programs on interfaces and sockets, and pins."""
