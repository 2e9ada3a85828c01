"""The Python side of maps.h: the maps, and the layout of their keys and values in memory.

The structures are ctypes so that they can overlay the mapped memory of a map: a store to a field is a store to kernel
memory, one byte or word at a time, never a whole value (updates by bpf(2) are not atomic).
tests/bpf/test_abi.py compiles maps.h and compares every offset.
"""

from __future__ import annotations

import ctypes
from typing import Final

from bpf.kernel import MapSpec
from bpf.linux import MapFlag, MapType

#: The version of this layout. Pinned maps outlive programs and processes; each schema has its own directory.
SCHEMA: Final = 1

MAX_LISTENERS: Final = 8
ACCEPT_ENTRIES: Final = 1024
ACCEPT_VALID: Final = 0x10000
LIMIT_ENTRIES: Final = 65536
PIN_ENTRIES: Final = 65536
WORKER_ENTRIES: Final = 65536
#: Slots of one listener; there are twice as many slots as cores.
SOCKET_ENTRIES: Final = 512
#: Packets queued for a CPU (tier D). A queue of 192 lost 4 % at 150 kpps, one of 2048 none; the kernel allows 16384.
CPUMAP_QUEUE: Final = 8192
DENY_ENTRIES: Final = 65536
COUNTERS_PER_STAGE: Final = 32

FAMILY_IPV4: Final = 1
FAMILY_IPV6: Final = 2
LIMIT_INITIAL, LIMIT_TOKEN, LIMIT_ZERO_RTT, LIMIT_VERSION = range(4)
LIMITS: Final = 4


class Key(ctypes.Structure):
    """struct quic_key: a SipHash key, 16 bytes in memory order."""

    _fields_ = (("octets", ctypes.c_ubyte * 16),)


class Keys(ctypes.Structure):
    """struct quic_keys."""

    _fields_ = (("key", Key * 8), ("active", ctypes.c_ubyte), ("unused", ctypes.c_ubyte * 7))


class Rate(ctypes.Structure):
    """struct rate."""

    _fields_ = (("interval_ns", ctypes.c_ulonglong), ("window_ns", ctypes.c_ulonglong))


class Listener(ctypes.Structure):
    """struct listener."""

    _fields_ = (
        ("port", ctypes.c_ubyte * 2),
        ("families", ctypes.c_ubyte),
        ("wildcard", ctypes.c_ubyte),
        ("address", ctypes.c_ubyte * 16),
    )


class Settings(ctypes.Structure):
    """struct settings."""

    _fields_ = (
        ("cids", Keys),
        ("secret", Key),
        ("rate", Rate * LIMITS),
        ("listener", Listener * MAX_LISTENERS),
        ("slip", ctypes.c_uint),
        ("active", ctypes.c_ubyte),
        ("deny", ctypes.c_ubyte),
        ("attack", ctypes.c_ubyte),
        ("move", ctypes.c_ubyte),
    )


class Worker(ctypes.Structure):
    """struct worker."""

    _fields_ = (("slot_plus_1", ctypes.c_uint), ("cpu", ctypes.c_uint))


class PinKey(ctypes.Structure):
    """struct pin_key."""

    _fields_ = (
        ("address", ctypes.c_ubyte * 16),
        ("dcid", ctypes.c_ulonglong),
        ("port", ctypes.c_ubyte * 2),
        ("unused", ctypes.c_ubyte * 6),
    )


class Pin(ctypes.Structure):
    """struct pin."""

    _fields_ = (("worker_id", ctypes.c_uint), ("born", ctypes.c_uint))


class Buckets(ctypes.Structure):
    """struct buckets."""

    _fields_ = (("tat", ctypes.c_ulonglong * LIMITS),)


class Deny4Key(ctypes.Structure):
    """struct deny4_key."""

    _fields_ = (("bits", ctypes.c_uint), ("address", ctypes.c_ubyte * 4))


class Deny6Key(ctypes.Structure):
    """struct deny6_key."""

    _fields_ = (("bits", ctypes.c_uint), ("address", ctypes.c_ubyte * 16))


class Counters(ctypes.Structure):
    """struct counters."""

    _fields_ = (("cell", ctypes.c_ulonglong * COUNTERS_PER_STAGE),)


#: struct bpf_cpumap_val: the queue size and the descriptor of the program that runs on that CPU.
CPUMAP_VALUE_BYTES: Final = 8
#: QUIC_HEAD_LENGTH: scratch memory for a head that is not linear (the stack allows no unaligned access).
HEAD_BYTES: Final = 48
#: A descriptor when written, a socket cookie when read.
SOCKET_VALUE_BYTES: Final = 8


def _spec(name: str, type_: MapType, key_bytes: int, value_bytes: int, entries: int, flags: int = 0) -> MapSpec:
    return MapSpec(name, type_, key_bytes, value_bytes, entries, flags)


_SIZE = ctypes.sizeof
_MAPPED = MapFlag.MMAPABLE

#: In the order of enum map: programs refer to a map by its index here. Each listener has a `sockets` map of its own;
#: `cpus` has as many entries as the machine has CPUs (pins.cpus_spec).
MAPS: Final = (
    _spec("settings", MapType.ARRAY, 4, _SIZE(Settings), 1, _MAPPED),
    _spec("workers", MapType.ARRAY, 4, _SIZE(Worker), WORKER_ENTRIES),
    _spec("accept", MapType.ARRAY, 4, 8, 2 * ACCEPT_ENTRIES, _MAPPED),
    _spec("pins", MapType.LRU_HASH, _SIZE(PinKey), _SIZE(Pin), PIN_ENTRIES),
    _spec("limits", MapType.ARRAY, 4, _SIZE(Buckets), LIMIT_ENTRIES),
    _spec("deny4", MapType.LPM_TRIE, _SIZE(Deny4Key), 4, DENY_ENTRIES, MapFlag.NO_PREALLOC),
    _spec("deny6", MapType.LPM_TRIE, _SIZE(Deny6Key), 4, DENY_ENTRIES, MapFlag.NO_PREALLOC),
    _spec("counters", MapType.PERCPU_ARRAY, 4, _SIZE(Counters), 3),
    _spec("cpus", MapType.CPUMAP, 4, CPUMAP_VALUE_BYTES, 0),
    _spec("head", MapType.PERCPU_ARRAY, 4, HEAD_BYTES, 1),
    _spec("sockets", MapType.REUSEPORT_SOCKARRAY, 4, SOCKET_VALUE_BYTES, SOCKET_ENTRIES),
)
