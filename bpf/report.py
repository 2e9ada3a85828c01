"""The content of an instance's pinned maps, for `dispatch status`, with or without a running supervisor.

Reading needs root, or CAP_BPF and the owner of the pins. Numbers are sums over the CPUs at the time of reading.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
from pathlib import Path
from typing import Any

from bpf import BpfError, abi, kernel, links, pins, verdicts


def read_counters(counters_fd: int, stage: str) -> dict[str, int]:
    """Return verdict -> packets of a stage."""
    names = verdicts.STAGES[stage]
    key = struct.pack("=I", list(verdicts.STAGES).index(stage))
    raw = kernel.lookup(counters_fd, key, ctypes.sizeof(abi.Counters) * kernel.possible_cpus()) or b""
    cells = struct.unpack(f"={len(raw) // 8}Q", raw)
    return {name: sum(cells[index :: abi.COUNTERS_PER_STAGE]) for index, name in enumerate(names)}


def instance(name: str, bpffs: Path = pins.BPFFS) -> dict[str, Any]:
    """Return what is pinned under *name*. Raises `BpfError` when nothing is, or another version made it."""
    pinned = pins.Pins(name, bpffs)
    if not pinned.instance.is_dir():
        raise BpfError(
            f"cannot find pinned programs of {name!r}; there are {', '.join(pins.instances(bpffs)) or 'none'}"
        )
    if not pinned.directory.is_dir():
        raise BpfError(f"cannot read the pins of {name!r}: another version made them; `dispatch detach` removes them")
    maps: dict[str, int] = {}
    try:
        for spec in pins.specs():
            fd = pinned.open(spec.name)
            if fd is None:
                raise BpfError(f"cannot read the pins of {name!r}: the map {spec.name} is missing")
            maps[spec.name] = fd
        return {"instance": name, "interfaces": _interfaces(pinned), **_tables(maps)}
    except PermissionError:
        raise BpfError(f"cannot read the pins of {name!r}: needs root") from None
    finally:
        for fd in maps.values():
            os.close(fd)


def _interfaces(pinned: pins.Pins) -> dict[str, bool]:
    """Return interface -> whether the program is still attached: the interface may be gone."""
    found = {}
    for name in pinned.names(pins.LINK_PREFIX):
        link = pinned.open(name)
        if link is not None:
            index = links.link_interface(link)
            os.close(link)
            try:
                found[socket.if_indextoname(index)] = True
            except OSError:
                found[name.removeprefix(pins.LINK_PREFIX)] = False
    return found


def _tables(maps: dict[str, int]) -> dict[str, Any]:
    zero = bytes(4)
    settings = abi.Settings.from_buffer_copy(
        kernel.lookup(maps["settings"], zero, ctypes.sizeof(abi.Settings)) or bytes(ctypes.sizeof(abi.Settings))
    )
    half = (settings.active & 1) * abi.ACCEPT_ENTRIES
    shares: dict[int, int] = {}
    for index in range(half, half + abi.ACCEPT_ENTRIES):
        (entry,) = struct.unpack("=Q", kernel.lookup(maps["accept"], struct.pack("=I", index), 8) or bytes(8))
        if entry & abi.ACCEPT_VALID:
            shares[entry & 0xFFFF] = shares.get(entry & 0xFFFF, 0) + 1
    workers = {}
    for worker_id in range(abi.WORKER_ENTRIES):
        raw = kernel.lookup(maps["workers"], struct.pack("=I", worker_id), 8) or bytes(8)
        slot_plus_1, cpu = struct.unpack("=II", raw)
        if slot_plus_1:
            share = shares.get(worker_id, 0) / abi.ACCEPT_ENTRIES
            workers[str(worker_id)] = {"slot": slot_plus_1 - 1, "cpu": cpu, "share_of_new": share}
    rate = settings.rate[abi.LIMIT_INITIAL]
    return {
        "listeners": [_listener(each) for each in settings.listener if any(each.port)],
        "workers": workers,
        "cid_configs": [config_id for config_id in range(7) if settings.cids.active >> config_id & 1],
        "pins": len(kernel.keys(maps["pins"], ctypes.sizeof(abi.PinKey))),
        "initials_per_s": 1_000_000_000 // rate.interval_ns if rate.interval_ns else 0,
        "denied_networks": sum(
            len(kernel.keys(maps[name], ctypes.sizeof(key)))
            for name, key in (("deny4", abi.Deny4Key), ("deny6", abi.Deny6Key))
        ),
        "attack": bool(settings.attack),
        "counters": {stage: read_counters(maps["counters"], stage) for stage in verdicts.STAGES},
    }


def _listener(entry: abi.Listener) -> str:
    (port,) = struct.unpack("!H", bytes(entry.port))
    octets = bytes(entry.address)
    if entry.families == abi.FAMILY_IPV4:
        return f"{ipaddress.IPv4Address(octets[:4])}:{port}"
    both = " (IPv4 too)" if entry.families & abi.FAMILY_IPV4 else ""
    return f"[{ipaddress.IPv6Address(octets)}]:{port}{both}"
