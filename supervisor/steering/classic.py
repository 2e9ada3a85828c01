"""Tier A: steering without capabilities, by a classic BPF program per listener (bpf/classic.py).

Every change attaches a new program to every listener, atomically. Nothing is pinned and nothing can be adopted: the
program belongs to the sockets and its tables are constants in it. Where workers serve already (*live*), the program of
an earlier supervisor stays attached until the first `accept`, by which time all workers are in the new tables. When a
supervisor dies, the sockets that only it held close and the kernel renumbers the group: packets of live connections may
then reach the wrong worker, which hands them over (strays), until the successor has opened the slots again. Tiers B and
higher are not affected.
"""

from __future__ import annotations

import secrets
import socket

from bpf import BpfError, classic
from bpf.linux import SO_DETACH_REUSEPORT_BPF
from supervisor.steering.base import Network, Tier
from velocity_edge.errors import Unavailable
from velocity_edge.wire.cid import CidConfig


class ClassicSteering:
    """See `Steering`. *sockets* are by listener and slot, each listener's bound in the order of its slots."""

    def __init__(
        self, sockets: list[list[socket.socket]], cid_configs: list[CidConfig], missing: str, *, live: bool = False
    ) -> None:
        self.tier = Tier.A
        self.missing = missing
        self.adopted = False
        self.interfaces: dict[str, str] = {}
        self._members = [slots[0] for slots in sockets]
        self._waits = live
        self._seed = secrets.randbits(64)
        self._workers: dict[int, int] = {}
        self._accepting: list[int] = []
        self._mask_keys: dict[int, bytes] = {}
        self.use_cid_configs(cid_configs)

    def lend(self, worker_id: int, slot: int, cpu: int) -> None:
        """See `Steering.lend`; the CPU is not used."""
        self._workers[worker_id] = slot
        self._attach()

    def lent(self) -> list[int]:
        """See `Steering.lent`. The entries of an earlier supervisor end with the first new program."""
        return list(self._workers)

    def forget(self, worker_id: int) -> None:
        """See `Steering.forget`."""
        self._workers.pop(worker_id, None)
        self._accepting = [accepting for accepting in self._accepting if accepting != worker_id]
        self._attach()

    def accept(self, worker_ids: list[int]) -> None:
        """See `Steering.accept`. Without a pin map, datagrams of a handshake in flight may go to different workers."""
        self._accepting = list(worker_ids)
        self._waits = False
        self._attach()

    def use_cid_configs(self, configs: list[CidConfig]) -> None:
        """See `Steering.use_cid_configs`."""
        self._mask_keys = {config.config_id: config.mask_key for config in configs}
        self._attach()

    def limits(self, *, initials_per_s: int, burst: int, slip: int, attack: bool) -> None:
        """Do nothing: in this tier each worker has its own limits (velocity_edge/quic/admission.py)."""

    def deny(self, networks: list[Network]) -> None:
        """Do nothing: not available in this tier."""

    def counters(self) -> dict[str, dict[str, int]]:
        """Return nothing: classic BPF cannot count."""
        return {}

    def release(self) -> None:
        """Do nothing: there is nothing to close."""

    def detach(self) -> None:
        """Detach the programs: the kernel chooses sockets by its own hash."""
        for member in self._members:
            try:
                member.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
            except OSError:
                pass  # the socket is closed: nothing is attached to it

    def _attach(self) -> None:
        if self._waits:
            return
        try:
            code = classic.program(self._mask_keys, self._workers, self._accepting, self._seed)
            for member in self._members:
                classic.attach(member, code)
        except BpfError as error:
            raise Unavailable(str(error)) from None
        except OSError as error:
            raise Unavailable(f"cannot attach a program to a listener's sockets: {error.strerror}") from None
