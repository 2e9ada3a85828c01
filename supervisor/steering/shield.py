"""The XDP shield of tiers C and D: programs on network interfaces, and their links.

Attaching needs CAP_NET_ADMIN and CAP_PERFMON. Links are pinned (bpf/pins.py) where bpffs is usable, so the shield
outlives the supervisor; otherwise it ends with the last descriptor. Which interfaces it belongs on is decided in
interfaces.py, what it drops is in the tables (tables.py).
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from bpf import BpfError, abi, kernel, links, loader, pins
from bpf.linux import XdpMode
from supervisor.steering.interfaces import Interface
from supervisor.steering.tables import Tables


class Shield:
    """The shield of one node; on no interface at first."""

    def __init__(self, tables: Tables, pinned: pins.Pins | None, cache_dir: Path) -> None:
        self._tables = tables
        self._pins = pinned
        self._cache_dir = cache_dir
        self._fds: list[int] = []
        self._links: list[int] = []
        #: Interface -> "native" or "generic", where XDP is attached.
        self.interfaces: dict[str, str] = {}
        #: Descriptors of the loaded programs: "shield" and "arrived".
        self.programs: dict[str, int] = {}

    def attach(self, interfaces: list[Interface], *, move: bool) -> None:
        """Attach to these interfaces, and to no others; with *move* packets go to the CPU of their worker (tier D)."""
        # Never adopted: a CPUMAP belongs to programs with frags or to programs without, for ever. Tier D is without: in
        # generic mode the kernel copies packets for a program with frags, loses the length of their Ethernet header,
        # and CPUMAP passes them on from the wrong byte (seen on 6.18: all lost as IP header errors).
        cpus = kernel.create_map(pins.cpus_spec())
        self._fds.append(cpus)
        maps = {**self._tables.maps, "cpus": cpus}
        program = self._load("shield", maps, frags=not move)
        if move:
            arrived = self._load("arrived", maps)
            for cpu in os.sched_getaffinity(0):
                kernel.update(cpus, struct.pack("=I", cpu), struct.pack("=II", abi.CPUMAP_QUEUE, arrived))
        self._tables.settings.move = move
        for interface in interfaces:
            self.interfaces[interface.name] = self._attach(interface, program, move)
        self._unpin_others({pins.LINK_PREFIX + _pin_name(each.name) for each in interfaces})

    def remove(self) -> None:
        """Detach from every interface."""
        for link in self._links:
            links.detach_link(link)
            os.close(link)
        self._links.clear()
        self._unpin_others(set())
        self._tables.settings.move = False
        self.interfaces.clear()

    def release(self) -> None:
        """Close the descriptors. A shield that is not pinned ends."""
        for fd in (*self._links, *self._fds):
            os.close(fd)
        self._links.clear()
        self._fds.clear()

    def _load(self, name: str, maps: dict[str, int], *, frags: bool = False) -> int:
        self.programs[name] = loader.load(name, maps, self._cache_dir, frags=frags)
        self._fds.append(self.programs[name])
        return self.programs[name]

    def _attach(self, interface: Interface, program: int, move: bool) -> str:
        name = pins.LINK_PREFIX + _pin_name(interface.name)
        link = self._pins.open(name) if self._pins else None
        if link is not None:
            # When an interface of the same name has been created anew, the old link is attached to nothing.
            if links.link_interface(link) == interface.index:
                links.update_link(link, program)
                self._links.append(link)
                return interface.xdp
            os.close(link)
        # A packet that CPUMAP moves loses the sender's pending checksum offload: on veth all of them would be dropped
        # as corrupt. Generic mode keeps the socket buffer.
        modes = [XdpMode.GENERIC] if move and interface.kind == "veth" else [XdpMode.NATIVE, XdpMode.GENERIC]
        link, mode = _link(interface, program, modes)
        self._links.append(link)
        if self._pins:
            self._pins.pin(link, name)
        return mode.name.lower()

    def _unpin_others(self, wanted: set[str]) -> None:
        if self._pins:
            for name in set(self._pins.names(pins.LINK_PREFIX)) - wanted:
                self._pins.unpin(name)


def _pin_name(interface_name: str) -> str:
    return interface_name.replace(".", "_")


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
