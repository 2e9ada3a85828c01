"""The maps of steering that programs, supervisor and successors share: opened, filled and read.

A store to the mapped memory takes effect for the next packet; the other maps are updated through bpf(2). Maps that are
pinned (bpf/pins.py) are adopted with their content. Which program uses which map is in kernel.py and shield.py.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import struct

from bpf import abi, kernel, pins, report, verdicts
from supervisor.steering.base import Network, Tier
from supervisor.steering.spread import fill
from velocity_edge.errors import CannotDo
from velocity_edge.wire.cid import CidConfig


class Tables:
    """The maps of one node by name. `adopted`: they are those of an earlier supervisor, with its workers."""

    def __init__(self, pinned: pins.Pins | None) -> None:
        self._pins = pinned
        self.maps: dict[str, int] = {}
        try:
            found = [self.open(spec.name, spec) for spec in pins.specs()]
            self.adopted = any(found)
            if self.adopted and not all(found):
                raise pins.MismatchError(f"cannot adopt {pinned and pinned.directory}: some maps are missing")
            settings = mmap.mmap(self.maps["settings"], mmap.PAGESIZE)
            self.settings = abi.Settings.from_buffer(settings)
            accept = mmap.mmap(self.maps["accept"], 2 * abi.ACCEPT_ENTRIES * 8)
            self._accept = (ctypes.c_uint64 * (2 * abi.ACCEPT_ENTRIES)).from_buffer(accept)
        except BaseException:
            self.close()
            raise
        if not self.adopted:
            self.settings.secret.octets[:] = secrets.token_bytes(16)

    def open(self, name: str, spec: kernel.MapSpec) -> bool:
        """Open or create one more map; return whether it was pinned already."""
        self.maps[name], adopted = pins.open_or_create(self._pins, name, spec)
        return adopted

    def close(self) -> None:
        """Close the descriptors. A map that is neither pinned nor used by a program ends."""
        for fd in self.maps.values():
            os.close(fd)
        self.maps.clear()

    def lend(self, worker_id: int, slot: int, cpu: int) -> None:
        """See `Steering.lend`."""
        kernel.update(self.maps["workers"], struct.pack("=I", worker_id), struct.pack("=II", slot + 1, cpu))

    def lent(self) -> list[int]:
        """See `Steering.lent`."""
        values = kernel.values(self.maps["workers"], abi.WORKER_ENTRIES, ctypes.sizeof(abi.Worker))
        return [worker_id for worker_id, value in enumerate(values) if any(value[:4])]

    def forget(self, worker_id: int) -> None:
        """See `Steering.forget`."""
        kernel.update(self.maps["workers"], struct.pack("=I", worker_id), bytes(8))

    def accept(self, worker_ids: list[int]) -> None:
        """See `Steering.accept`: the half that is not in use is written, then one byte selects it."""
        active = self.settings.active & 1
        now = [_worker_id(self._accept[active * abi.ACCEPT_ENTRIES + index]) for index in range(abi.ACCEPT_ENTRIES)]
        following = 1 - active
        for index, worker_id in enumerate(fill(now, worker_ids)):
            entry = 0 if worker_id is None else abi.ACCEPT_VALID | worker_id
            self._accept[following * abi.ACCEPT_ENTRIES + index] = entry
        self.settings.active = following

    def use_cid_configs(self, configs: list[CidConfig]) -> None:
        """See `Steering.use_cid_configs`."""
        wanted = {config.config_id: config.mask_key for config in configs}
        keys = self.settings.cids
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
            self.settings.rate[limit].window_ns = at_once * interval_ns
            self.settings.rate[limit].interval_ns = interval_ns
        self.settings.slip = slip
        self.settings.attack = attack

    def deny(self, networks: list[Network]) -> None:
        """See `Steering.deny`."""
        for version in (4, 6):
            if sum(network.version == version for network in networks) > abi.DENY_ENTRIES:
                raise CannotDo(f"cannot deny more than {abi.DENY_ENTRIES} IPv{version} networks")
        for name, version, key_type in (("deny4", 4, abi.Deny4Key), ("deny6", 6, abi.Deny6Key)):
            fd, size = self.maps[name], ctypes.sizeof(key_type)
            before = set(kernel.keys(fd, size))
            wanted = {
                struct.pack("=I", network.prefixlen) + network.network_address.packed
                for network in networks
                if network.version == version
            }
            # Old networks are removed first: the map may be full.
            for key in before - wanted:
                kernel.delete(fd, key)
            for key in wanted - before:
                kernel.update(fd, key, struct.pack("=I", 1))
        self.settings.deny = bool(networks)

    def counters(self, tier: Tier) -> dict[str, dict[str, int]]:
        """See `Steering.counters`: of the stages that *tier* has."""
        stages = {Tier.B: ["select"], Tier.C: ["xdp", "select"]}.get(tier, list(verdicts.STAGES))
        return {stage: report.read_counters(self.maps["counters"], stage) for stage in stages}

    def forget_pins(self) -> None:
        """Forget which worker has which handshake in flight: the control experiment of the tests."""
        size = ctypes.sizeof(abi.PinKey)
        for key in kernel.keys(self.maps["pins"], size):
            kernel.delete(self.maps["pins"], key)


def _worker_id(entry: int) -> int | None:
    return entry & 0xFFFF if entry & abi.ACCEPT_VALID else None
