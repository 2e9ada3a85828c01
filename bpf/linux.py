"""bpf(2) itself: the system call through ctypes, and the numbers of <linux/bpf.h> that are used. No libbpf, no libbcc.

Errors are OSError as the kernel gives them. What is called for is in kernel.py (maps, programs), links.py (attachments,
pins) and measure.py (test runs).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from enum import IntEnum

from bpf import BpfError

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
_ATTR_BYTES = 144
#: SO_* of asm-generic/socket.h that the socket module does not have.
SO_ATTACH_REUSEPORT_CBPF = 51
SO_ATTACH_REUSEPORT_EBPF = 52
SO_DETACH_REUSEPORT_BPF = 68
SO_COOKIE = 57


class Command(IntEnum):
    """enum bpf_cmd, as far as it is used."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24
    LINK_CREATE = 28
    LINK_UPDATE = 29
    ENABLE_STATS = 32
    LINK_DETACH = 34


class MapType(IntEnum):
    """enum bpf_map_type, as far as it is used."""

    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    CPUMAP = 16
    REUSEPORT_SOCKARRAY = 20


class MapFlag(IntEnum):
    """BPF_F_* of BPF_MAP_CREATE."""

    NONE = 0
    NO_PREALLOC = 1
    MMAPABLE = 1 << 10


class ProgramType(IntEnum):
    """enum bpf_prog_type, as far as it is used."""

    XDP = 6
    SK_REUSEPORT = 21


class AttachType(IntEnum):
    """enum bpf_attach_type, as far as it is used."""

    XDP_CPUMAP = 35
    XDP = 37
    SK_REUSEPORT_SELECT = 39


class XdpMode(IntEnum):
    """XDP_FLAGS_*: in the driver, or on the socket buffer after it."""

    GENERIC = 2
    NATIVE = 4


XDP_HAS_FRAGS = 1 << 5


_libc = ctypes.CDLL(None, use_errno=True)


def call(command: Command, attr: bytes) -> tuple[int, bytes]:
    """Make the call; return its result and union bpf_attr as it is afterwards. Raises `OSError`."""
    number = _SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        raise BpfError(f"cannot use BPF on {platform.machine()}: only on {' and '.join(_SYSCALL_NUMBERS)}")
    buffer = ctypes.create_string_buffer(attr, max(len(attr), _ATTR_BYTES))
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(buffer)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{os.strerror(code)} (bpf {command.name})")
    return result, buffer.raw


def object_info(fd: int) -> bytes:
    """Return the bpf_*_info of a map, program or link."""
    raw = ctypes.create_string_buffer(256)
    call(Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(raw), ctypes.addressof(raw)))
    return raw.raw
