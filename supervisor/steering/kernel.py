"""Tiers B, C and D: sk_reuseport eBPF chooses the socket, XDP shields (shield.py), CPUMAP moves packets.

Opening needs CAP_BPF (B), CAP_NET_ADMIN and CAP_PERFMON (C, D); everything after that works by descriptor, without any
capability. Maps and links are pinned (bpf/pins.py) unless bpffs cannot be used; `missing` then names the cost: the
selection program stays as long as a socket lives, the shield ends with the supervisor, and nothing can be adopted.

Adoption keeps maps and attachments and always replaces the programs, so sources need not be compared. Where workers
serve but their tables cannot be adopted (another schema, or tier A before), new tables start empty: the earlier
steering stays attached until the first `accept`, by which time all workers are in the new tables.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import time
from pathlib import Path

from bpf import BpfError, abi, kernel, loader, pins
from bpf.linux import SO_ATTACH_REUSEPORT_EBPF, SO_COOKIE, SO_DETACH_REUSEPORT_BPF
from supervisor.steering.base import Network, Tier
from supervisor.steering.interfaces import Interface
from supervisor.steering.shield import Shield
from supervisor.steering.tables import Tables
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.messages import Listener

#: How long the kernel takes to free a map: an RCU grace period and a work queue, milliseconds in practice.
_FREED_WITHIN_S = 5.0


class KernelSteering:
    """See `Steering`. Opened in tier B; `attach_shield` makes it C or D."""

    def __init__(
        self,
        listeners: list[Listener],
        sockets: list[list[socket.socket]],
        cid_configs: list[CidConfig],
        cache_dir: Path,
        pinned: pins.Pins | None,
        *,
        live: bool = False,
    ) -> None:
        self.tier = Tier.B
        self.missing = ""
        self._sockets = sockets
        self._cache_dir = cache_dir
        self._pins = pinned
        self._socket_maps: list[int] = []  # by listener
        self._selection: list[tuple[socket.socket, int]] = []  # by listener: a member of its group, its program
        self._tables = Tables(pinned)
        self._shield = Shield(self._tables, pinned, cache_dir)
        self.interfaces = self._shield.interfaces
        self.adopted = self._tables.adopted
        #: The earlier steering stays attached until the first `accept`.
        self._waits = live and not self.adopted
        try:
            self._open(listeners, cid_configs)
        except BaseException:
            self.release()
            raise

    def _open(self, listeners: list[Listener], cid_configs: list[CidConfig]) -> None:
        self.use_cid_configs(cid_configs)
        for listener, slots in zip(listeners, self._sockets, strict=True):
            self._load(listener, slots)
        if not self._waits:
            self._attach()
        if self._pins:
            wanted = {pins.sockets_name(each.host, each.port) for each in listeners}
            for name in set(self._pins.names(pins.SOCKETS_PREFIX)) - wanted:
                self._pins.unpin(name)

    def _load(self, listener: Listener, slots: list[socket.socket]) -> None:
        """Put a listener's sockets into their slots, and load the program for its reuseport group."""
        name = pins.sockets_name(listener.host, listener.port)
        self._tables.open(name, pins.sockets_spec())
        fd = self._tables.maps[name]
        self._socket_maps.append(fd)
        for slot, member in enumerate(slots):
            try:
                _place(fd, slot, member)
            except OSError as error:
                reason = "it is not bound with SO_REUSEPORT" if error.errno == errno.EINVAL else error.strerror
                where = f"{listener.host} port {listener.port}"
                raise BpfError(f"cannot steer to slot {slot} of {where}: {reason}") from None
        program = loader.load("choose_socket", {**self._tables.maps, "sockets": fd}, self._cache_dir)
        self._selection.append((slots[0], program))

    def _attach(self) -> None:
        """Attach the selection programs, and have the shield know the listeners; it passes all packets until then."""
        entries = [_listener_entry(slots[0]) for slots in self._sockets[: abi.MAX_LISTENERS]]
        for index in range(abi.MAX_LISTENERS):
            self._tables.settings.listener[index] = entries[index] if index < len(entries) else abi.Listener()
        for member, program in self._selection:
            member.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, program)
        self._waits = False

    def selection_program(self, index: int) -> int:
        """Return the program that chooses a socket of the listener with this index: for benchmarks."""
        return self._selection[index][1]

    def attach_shield(self, interfaces: list[Interface], *, move: bool) -> None:
        """Attach XDP to these interfaces, and to no others: tier C, or D with *move*."""
        if len(self._sockets) > abi.MAX_LISTENERS:
            raise BpfError(f"cannot shield {len(self._sockets)} listeners: the maximum is {abi.MAX_LISTENERS}")
        self._shield.attach(interfaces, move=move)
        self.tier = Tier.D if move else Tier.C

    def remove_shield(self) -> None:
        """Detach XDP wherever this instance has attached it; back to tier B."""
        self._shield.remove()
        self.tier = Tier.B

    def lend(self, worker_id: int, slot: int, cpu: int) -> None:
        """See `Steering.lend`."""
        self._tables.lend(worker_id, slot, cpu)

    def lent(self) -> list[int]:
        """See `Steering.lent`."""
        return self._tables.lent()

    def forget(self, worker_id: int) -> None:
        """See `Steering.forget`."""
        self._tables.forget(worker_id)

    def accept(self, worker_ids: list[int]) -> None:
        """See `Steering.accept`."""
        self._tables.accept(worker_ids)
        if self._waits:
            self._attach()

    def use_cid_configs(self, configs: list[CidConfig]) -> None:
        """See `Steering.use_cid_configs`."""
        self._tables.use_cid_configs(configs)

    def limits(self, *, initials_per_s: int, burst: int, slip: int, attack: bool) -> None:
        """See `Steering.limits`."""
        self._tables.limits(initials_per_s=initials_per_s, burst=burst, slip=slip, attack=attack)

    def deny(self, networks: list[Network]) -> None:
        """See `Steering.deny`."""
        self._tables.deny(networks)

    def counters(self) -> dict[str, dict[str, int]]:
        """See `Steering.counters`."""
        return self._tables.counters(self.tier)

    def forget_pins(self) -> None:
        """Forget which worker has which handshake in flight: the control experiment of the tests."""
        self._tables.forget_pins()

    def release(self) -> None:
        """See `Steering.release`. What is not pinned ends with its last descriptor: the shield at once."""
        self._shield.release()
        for _, program in self._selection:
            os.close(program)
        self._selection.clear()
        self._tables.close()

    def detach(self) -> None:
        """See `Steering.detach`."""
        self.remove_shield()
        for slots, fd in zip(self._sockets, self._socket_maps, strict=True):
            # The maps outlive their last descriptor for a moment, and a socket can be in one map only.
            for slot in range(len(slots)):
                kernel.delete(fd, struct.pack("=I", slot))
            try:
                slots[0].setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
            except OSError:
                pass  # the socket is closed: nothing is attached to it
        if self._pins:
            self._pins.remove()
        self.release()


def _place(sockets_fd: int, slot: int, member: socket.socket) -> None:
    """Put a socket into its slot of a sockets map."""
    key = struct.pack("=I", slot)
    # A socket that is in the slot already (adoption) may not be put there again.
    if kernel.lookup(sockets_fd, key, abi.SOCKET_VALUE_BYTES) == member.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8):
        return
    deadline = time.monotonic() + _FREED_WITHIN_S
    while True:
        try:
            return kernel.update(sockets_fd, key, struct.pack("=Q", member.fileno()))
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        # The socket is in a map that is no longer pinned (`dispatch detach` with running workers) and that only the
        # attached program of the group references. Once that program is detached the kernel frees the map; until then
        # it chooses sockets by its own hash, and workers hand over packets for other workers.
        try:
            member.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
        except FileNotFoundError:
            time.sleep(0.005)


def _listener_entry(member: socket.socket) -> abi.Listener:
    host, port = member.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    families = abi.FAMILY_IPV4
    if isinstance(address, ipaddress.IPv6Address):
        families = abi.FAMILY_IPV6
        if address.ipv4_mapped:
            address, families = address.ipv4_mapped, abi.FAMILY_IPV4
        elif address.is_unspecified and not member.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            families |= abi.FAMILY_IPV4
    entry = abi.Listener(families=families, wildcard=address.is_unspecified)
    entry.port[:] = struct.pack("!H", port)
    entry.address[: len(address.packed)] = address.packed
    return entry
