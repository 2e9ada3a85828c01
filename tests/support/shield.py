"""The XDP program in the kernel, run on frames one by one (BPF_PROG_TEST_RUN), with the test owning its maps."""

from __future__ import annotations

import ctypes
import ipaddress
import mmap
import os
import struct
from pathlib import Path

from bpf import abi, kernel, loader, measure, pins, verdicts
from bpf.report import read_counters
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.cid_codec import CidCodec

DROP, PASS = 1, 2
PORT = 443
WORKER, GONE = 7, 8  # a worker id that is lent, one that is not
CONFIG = CidConfig(0, bytes(16), bytes(range(16)))


class Shield:
    """A shield with a dual-stack wildcard listener on port 443, and worker 7 in slot 3."""

    def __init__(self, cache_dir: Path) -> None:
        self.maps = {spec.name: kernel.create_map(spec) for spec in (*pins.specs(), pins.cpus_spec())}
        self.program = loader.load("shield", self.maps, cache_dir)
        memory = mmap.mmap(self.maps["settings"], mmap.PAGESIZE)
        self.settings = abi.Settings.from_buffer(memory)
        accept = mmap.mmap(self.maps["accept"], 2 * abi.ACCEPT_ENTRIES * 8)
        self.accept = (ctypes.c_uint64 * (2 * abi.ACCEPT_ENTRIES)).from_buffer(accept)
        self.codec = CidCodec([CONFIG])
        self.reset()

    def reset(self) -> None:
        """Reset: no limit, no deny list, no attack; empty buckets."""
        ctypes.memset(ctypes.addressof(self.settings), 0, ctypes.sizeof(self.settings))
        for index in self.used_buckets():
            kernel.update(self.maps["limits"], struct.pack("=I", index), bytes(ctypes.sizeof(abi.Buckets)))
        self.settings.cids.key[0].octets[:] = CONFIG.mask_key
        self.settings.cids.active = 1
        self.listen("::", abi.FAMILY_IPV4 | abi.FAMILY_IPV6)
        self.lend(WORKER, slot=3)

    def used_buckets(self) -> list[int]:
        """Return where the limiter has counted anything since `reset`."""
        empty = bytes(ctypes.sizeof(abi.Buckets))
        values = kernel.values(self.maps["limits"], abi.LIMIT_ENTRIES, len(empty))
        return [index for index, value in enumerate(values) if value != empty]

    def listen(self, host: str, families: int, port: int = PORT, index: int = 0) -> None:
        address = ipaddress.ip_address(host)
        entry = abi.Listener(families=families, wildcard=address.is_unspecified)
        entry.port[:] = struct.pack("!H", port)
        entry.address[: len(address.packed)] = address.packed
        self.settings.listener[index] = entry

    def lend(self, worker_id: int, slot: int, cpu: int = 0) -> None:
        kernel.update(self.maps["workers"], struct.pack("=I", worker_id), struct.pack("=II", slot + 1, cpu))

    def cid(self, worker_id: int = WORKER) -> bytes:
        return self.codec.issue(1, worker_id)

    def run(self, frame: bytes) -> tuple[str, bytes]:
        """Return the verdict and the frame afterwards. One counter is incremented, and the action matches it."""
        before = self.counters()
        action, _, after = measure.run_on_frame(self.program, frame)
        moved = {name: count - before[name] for name, count in self.counters().items() if count != before[name]}
        assert list(moved.values()) == [1], moved
        (verdict,) = moved
        assert action == (DROP if verdict.startswith("dropped") else PASS), (action, verdict)
        return verdict, after

    def counters(self) -> dict[str, int]:
        counted = read_counters(self.maps["counters"], "xdp")
        assert list(counted) == list(verdicts.XDP)
        return counted

    def close(self) -> None:
        for fd in (self.program, *self.maps.values()):
            os.close(fd)
