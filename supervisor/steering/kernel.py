"""Tiers B, C and D: sk_reuseport eBPF chooses the socket, XDP shields, CPUMAP moves.

Opening needs CAP_BPF (B), CAP_NET_ADMIN and CAP_PERFMON (C, D); everything after that works by descriptor, without any
right. Maps and links are pinned (bpf/pins.py) unless bpffs cannot be had; then `missing` says what that costs: the
select program goes on as long as a socket lives, the shield ends with the supervisor, and nothing can be adopted.

Adoption keeps maps and attachments and swaps the programs: always, so that "did the source change" is never a question.
Where workers serve but their tables cannot be adopted (another schema, or tier A before), ours start empty: what
steered them so far stays in charge until the first `accept`, by which time all of them were lent again.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import mmap
import os
import secrets
import socket
import struct
import time
from pathlib import Path

from bpf import BpfError, abi, kernel, links, loader, pins, report, verdicts
from bpf.linux import SO_ATTACH_REUSEPORT_EBPF, SO_COOKIE, SO_DETACH_REUSEPORT_BPF, XdpMode
from supervisor.steering.base import Network, Tier
from supervisor.steering.interfaces import Interface
from supervisor.steering.table import fill
from velocity_edge.errors import CannotDo
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
        self.adopted = False
        self.interfaces: dict[str, str] = {}
        self._sockets = sockets
        self._cache_dir = cache_dir
        self._pins = pinned
        self._fds: list[int] = []
        self._links: list[int] = []
        self._socket_maps: list[int] = []  # by listener
        self._selection: list[tuple[socket.socket, int]] = []  # by listener: a member of its group, its program
        #: Descriptors of what is loaded: "shield", "arrived", and a selection program per sockets map.
        self.programs: dict[str, int] = {}
        self._maps: dict[str, int] = {}
        self._waits = live
        try:
            self._open(listeners, cid_configs)
        except BaseException:
            self.release()
            raise

    # --- opening -----------------------------------------------------------------------------------------------------

    def _open(self, listeners: list[Listener], cid_configs: list[CidConfig]) -> None:
        found = [self._open_map(spec.name, spec) for spec in pins.specs()]
        self.adopted = any(found)
        if self.adopted and not all(found):
            raise pins.MismatchError(f"cannot adopt {self._pins and self._pins.directory}: some maps are missing")
        self._map_memory()
        self._waits = self._waits and not self.adopted
        if not self.adopted:
            self._settings.secret.octets[:] = secrets.token_bytes(16)
        self.use_cid_configs(cid_configs)
        for listener, slots in zip(listeners, self._sockets, strict=True):
            self._load(listener, slots)
        if not self._waits:
            self._take_charge()
        if self._pins:
            self._unpin_others(pins.SOCKETS_PREFIX, {pins.sockets_name(each.host, each.port) for each in listeners})

    def _open_map(self, name: str, spec: kernel.MapSpec) -> bool:
        self._maps[name], adopted = pins.open_or_create(self._pins, name, spec)
        self._fds.append(self._maps[name])
        return adopted

    def _map_memory(self) -> None:
        settings = mmap.mmap(self._maps["settings"], mmap.PAGESIZE)
        self._settings = abi.Settings.from_buffer(settings)
        accept = mmap.mmap(self._maps["accept"], 2 * abi.ACCEPT_ENTRIES * 8)
        self._accept = (ctypes.c_uint64 * (2 * abi.ACCEPT_ENTRIES)).from_buffer(accept)

    def _use_listeners(self) -> None:
        """What the shield takes for ours: nothing, until we are in charge."""
        entries = [_listener_entry(slots[0]) for slots in self._sockets[: abi.MAX_LISTENERS]]
        for index in range(abi.MAX_LISTENERS):
            self._settings.listener[index] = entries[index] if index < len(entries) else abi.Listener()

    def _load(self, listener: Listener, slots: list[socket.socket]) -> None:
        """Put a listener's sockets into their slots, and load the program for its reuseport group."""
        name = pins.sockets_name(listener.host, listener.port)
        self._open_map(name, pins.sockets_spec())
        fd = self._maps[name]
        self._socket_maps.append(fd)
        for slot, member in enumerate(slots):
            try:
                _place(fd, slot, member)
            except OSError as error:
                reason = "it is not bound with SO_REUSEPORT" if error.errno == errno.EINVAL else error.strerror
                where = f"{listener.host} port {listener.port}"
                raise BpfError(f"cannot steer to slot {slot} of {where}: {reason}") from None
        program = loader.load("choose_socket", {**self._maps, "sockets": fd}, self._cache_dir)
        self.programs[name] = program
        self._fds.append(program)
        self._selection.append((slots[0], program))

    def _take_charge(self) -> None:
        self._use_listeners()
        for member, program in self._selection:
            member.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, program)
        self._waits = False

    # --- the shield ---------------------------------------------------------------------------------------------------

    def attach_shield(self, interfaces: list[Interface], *, move: bool) -> None:
        """Attach XDP to these interfaces, and to no others: tier C, or D with *move*."""
        if len(self._sockets) > abi.MAX_LISTENERS:
            raise BpfError(f"cannot shield {len(self._sockets)} listeners: {abi.MAX_LISTENERS} is the most")
        # Never adopted: a CPUMAP belongs to programs with frags or to programs without, for ever. And without it is in
        # tier D: in generic mode the kernel copies packets for a program with frags, forgets how long their Ethernet
        # header is, and CPUMAP hands them on from the wrong byte (seen on 6.18: all lost as IP header errors).
        cpus = kernel.create_map(pins.cpus_spec())
        self._fds.append(cpus)
        maps = {**self._maps, "cpus": cpus}
        program = loader.load("shield", maps, self._cache_dir, frags=not move)
        self._fds.append(program)
        self.programs["shield"] = program
        if move:
            arrived = loader.load("arrived", maps, self._cache_dir)
            self._fds.append(arrived)
            self.programs["arrived"] = arrived
            for cpu in os.sched_getaffinity(0):
                kernel.update(cpus, struct.pack("=I", cpu), struct.pack("=II", abi.CPUMAP_QUEUE, arrived))
        self._settings.move = move
        for interface in interfaces:
            self.interfaces[interface.name] = self._attach(interface, program, move)
        self._unpin_others(pins.LINK_PREFIX, {pins.LINK_PREFIX + _pin_name(each.name) for each in interfaces})
        self.tier = Tier.D if move else Tier.C

    def remove_shield(self) -> None:
        """Detach XDP wherever this instance has it; back to tier B."""
        for link in self._links:
            links.detach_link(link)
            os.close(link)
        self._links.clear()
        self._unpin_others(pins.LINK_PREFIX, set())
        self._settings.move = False
        self.interfaces.clear()
        self.tier = Tier.B

    def _attach(self, interface: Interface, program: int, move: bool) -> str:
        name = pins.LINK_PREFIX + _pin_name(interface.name)
        link = self._pins.open(name) if self._pins else None
        if link is not None:
            # After an interface of the same name was made anew, the old link is on nothing.
            if links.link_interface(link) == interface.index:
                links.update_link(link, program)
                self._links.append(link)
                return interface.xdp
            os.close(link)
        # A packet that CPUMAP moves loses what the sender's checksum offload left to do: on veth all of them would be
        # dropped as corrupt. Generic mode keeps the socket buffer.
        modes = [XdpMode.GENERIC] if move and interface.kind == "veth" else [XdpMode.NATIVE, XdpMode.GENERIC]
        link, mode = _link(interface, program, modes)
        self._links.append(link)
        if self._pins:
            self._pins.pin(link, name)
        return mode.name.lower()

    def _unpin_others(self, prefix: str, wanted: set[str]) -> None:
        if self._pins:
            for name in set(self._pins.names(prefix)) - wanted:
                self._pins.unpin(name)

    # --- while it runs ------------------------------------------------------------------------------------------------

    def lend(self, worker_id: int, slot: int, cpu: int) -> None:
        """See `Steering.lend`."""
        kernel.update(self._maps["workers"], struct.pack("=I", worker_id), struct.pack("=II", slot + 1, cpu))

    def lent(self) -> list[int]:
        """See `Steering.lent`."""
        values = kernel.values(self._maps["workers"], abi.WORKER_ENTRIES, ctypes.sizeof(abi.Worker))
        return [worker_id for worker_id, value in enumerate(values) if any(value[:4])]

    def forget(self, worker_id: int) -> None:
        """See `Steering.forget`."""
        kernel.update(self._maps["workers"], struct.pack("=I", worker_id), bytes(8))

    def accept(self, worker_ids: list[int]) -> None:
        """See `Steering.accept`: the half that is not in force is written, then one byte makes it the one that is."""
        active = self._settings.active & 1
        now = [_worker_id(self._accept[active * abi.ACCEPT_ENTRIES + index]) for index in range(abi.ACCEPT_ENTRIES)]
        following = 1 - active
        for index, worker_id in enumerate(fill(now, worker_ids)):
            entry = 0 if worker_id is None else abi.ACCEPT_VALID | worker_id
            self._accept[following * abi.ACCEPT_ENTRIES + index] = entry
        self._settings.active = following
        if self._waits:
            self._take_charge()

    def use_cid_configs(self, configs: list[CidConfig]) -> None:
        """See `Steering.use_cid_configs`."""
        wanted = {config.config_id: config.mask_key for config in configs}
        keys = self._settings.cids
        for config_id in range(len(keys.key)):
            bit, key = 1 << config_id, wanted.get(config_id)
            if key is not None and keys.active & bit and bytes(keys.key[config_id].octets) == key:
                continue
            keys.active &= ~bit
            if key is not None:
                keys.key[config_id].octets[:] = key
                keys.active |= bit

    def limits(self, *, initials_per_s: int, burst: int, slip: int, attack: bool) -> None:
        """See `Steering.limits`."""
        rates = {
            abi.LIMIT_INITIAL: initials_per_s,
            abi.LIMIT_TOKEN: initials_per_s,
            abi.LIMIT_ZERO_RTT: initials_per_s * 8,
            abi.LIMIT_VERSION: -(-initials_per_s // 8),
        }
        for limit, per_s in rates.items():
            interval_ns = 1_000_000_000 // per_s if per_s else 0
            at_once = max(burst * per_s // initials_per_s, 1) if per_s else 0
            self._settings.rate[limit].window_ns = at_once * interval_ns
            self._settings.rate[limit].interval_ns = interval_ns
        self._settings.slip = slip
        self._settings.attack = attack

    def deny(self, networks: list[Network]) -> None:
        """See `Steering.deny`."""
        for version in (4, 6):
            if sum(network.version == version for network in networks) > abi.DENY_ENTRIES:
                raise CannotDo(f"cannot deny more than {abi.DENY_ENTRIES} IPv{version} networks")
        for name, version, key_type in (("deny4", 4, abi.Deny4Key), ("deny6", 6, abi.Deny6Key)):
            fd, size = self._maps[name], ctypes.sizeof(key_type)
            before = set(kernel.keys(fd, size))
            wanted = {
                struct.pack("=I", network.prefixlen) + network.network_address.packed
                for network in networks
                if network.version == version
            }
            # Removed first: the map may be full of the old ones.
            for key in before - wanted:
                kernel.delete(fd, key)
            for key in wanted - before:
                kernel.update(fd, key, struct.pack("=I", 1))
        self._settings.deny = bool(networks)

    def counters(self) -> dict[str, dict[str, int]]:
        """See `Steering.counters`."""
        stages = {Tier.B: ["select"], Tier.C: ["xdp", "select"]}.get(self.tier, list(verdicts.STAGES))
        return {stage: report.read_counters(self._maps["counters"], stage) for stage in stages}

    def forget_pins(self) -> None:
        """Forget which worker has which handshake in flight: the control experiment of the tests."""
        size = ctypes.sizeof(abi.PinKey)
        for key in kernel.keys(self._maps["pins"], size):
            kernel.delete(self._maps["pins"], key)

    # --- leaving ------------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """See `Steering.release`. What is not pinned goes when its last user goes: the shield at once."""
        for fd in (*self._links, *self._fds):
            os.close(fd)
        self._links.clear()
        self._fds.clear()

    def detach(self) -> None:
        """See `Steering.detach`."""
        self.remove_shield()
        for slots, fd in zip(self._sockets, self._socket_maps, strict=True):
            # The maps live a little longer than their last descriptor, and a socket can be in one map only.
            for slot in range(len(slots)):
                kernel.delete(fd, struct.pack("=I", slot))
            try:
                slots[0].setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
            except OSError:
                pass  # closed already: nothing is attached to it
        if self._pins:
            self._pins.remove()
        self.release()


def _place(sockets_fd: int, slot: int, member: socket.socket) -> None:
    """Put a socket into its slot of a sockets map."""
    key = struct.pack("=I", slot)
    # One that is there already (adoption) may not be put there again.
    if kernel.lookup(sockets_fd, key, abi.SOCKET_VALUE_BYTES) == member.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8):
        return
    deadline = time.monotonic() + _FREED_WITHIN_S
    while True:
        try:
            return kernel.update(sockets_fd, key, struct.pack("=Q", member.fileno()))
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        # It sits in a map whose pin is gone (`dispatch detach` under live workers) and which only the program in charge
        # of the group keeps. Without that program the kernel frees the map a moment later; until then it chooses by its
        # own hash, and workers hand over what they get by mistake.
        try:
            member.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
        except FileNotFoundError:
            time.sleep(0.005)


def _worker_id(entry: int) -> int | None:
    return entry & 0xFFFF if entry & abi.ACCEPT_VALID else None


def _pin_name(interface_name: str) -> str:
    return interface_name.replace(".", "_")


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


def _link(interface: Interface, program: int, modes: list[XdpMode]) -> tuple[int, XdpMode]:
    """Attach in the first mode that works."""
    reasons = []
    for mode in modes:
        try:
            return links.link_xdp(program, interface.index, mode), mode
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EEXIST):
                raise BpfError(
                    f"cannot attach to {interface.name}: another XDP program is there ({interface.xdp or 'just now'}); "
                    f"`ip link set dev {interface.name} xdp off` removes it"
                ) from None
            if error.errno == errno.EPERM:
                raise BpfError(f"cannot attach to {interface.name}: {kernel.why_not('CAP_NET_ADMIN')}") from None
            reasons.append(f"{mode.name.lower()}: {error.strerror}")
    raise BpfError(f"cannot attach to {interface.name}: {'; '.join(reasons)}")
