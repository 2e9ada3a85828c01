"""bpf(2) through ctypes: maps, programs, pins, links, test runs. No libbpf, no libbcc.

It decides nothing; each function is one system call with the kernel's own names (union bpf_attr in <linux/bpf.h>).
Errors are OSError as the kernel gives them, except from `load_program`, where the verifier's reasons come along.
Every descriptor returned is close-on-exec and the caller's to close.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from bpf import BpfError

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
_ATTR_BYTES = 144
_LOG_BYTES = 1 << 22
#: What SO_ATTACH_REUSEPORT_* of asm-generic/socket.h are; the socket module does not name them.
SO_ATTACH_REUSEPORT_CBPF = 51
SO_ATTACH_REUSEPORT_EBPF = 52
SO_DETACH_REUSEPORT_BPF = 68
SO_COOKIE = 57

#: linux/capability.h
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
_CAP_SYS_ADMIN = 21

LICENSE = b"Dual MIT/GPL"


class _Command(IntEnum):
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
    """enum bpf_prog_type and the expected attach type that goes with it, as one number each."""

    XDP = 6
    SK_REUSEPORT = 21


class AttachType(IntEnum):
    """enum bpf_attach_type, as far as it is used."""

    XDP_CPUMAP = 35
    XDP = 37
    SK_REUSEPORT_SELECT = 39


class XdpMode(IntEnum):
    """XDP_FLAGS_*: in the driver, or on a socket buffer after it."""

    GENERIC = 2
    NATIVE = 4


XDP_HAS_FRAGS = 1 << 5
_LINK_UPDATE_REPLACE = 4


@dataclass(frozen=True, slots=True)
class MapSpec:
    """How a map is created. Sizes in bytes."""

    name: str
    type: MapType
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says about a loaded program. Instructions are counted, `jited_bytes` measured."""

    tag: str
    instructions: int
    jited_bytes: int
    verified_instructions: int
    run_time_ns: int
    run_count: int


_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: _Command, attr: bytes) -> tuple[int, bytes]:
    number = _SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        raise BpfError(f"cannot use BPF on {platform.machine()}: only on {' and '.join(_SYSCALL_NUMBERS)}")
    buffer = ctypes.create_string_buffer(attr, max(len(attr), _ATTR_BYTES))
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(buffer)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{os.strerror(code)} (bpf {command.name})")
    return result, buffer.raw


def create_map(spec: MapSpec) -> int:
    """Create a map; return its descriptor."""
    attr = struct.pack(
        "=IIIIIII16s",
        spec.type,
        spec.key_bytes,
        spec.value_bytes,
        spec.entries,
        spec.flags,
        0,
        0,
        spec.name.encode()[:15],
    )
    return _bpf(_Command.MAP_CREATE, attr)[0]


def _element(command: _Command, fd: int, key: bytes | None, value: ctypes.Array[ctypes.c_char] | None) -> None:
    key_buffer = ctypes.create_string_buffer(key, len(key)) if key is not None else None
    key_at = ctypes.addressof(key_buffer) if key_buffer is not None else 0
    value_at = ctypes.addressof(value) if value is not None else 0
    _bpf(command, struct.pack("=I4xQQQ", fd, key_at, value_at, 0))


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set an element, whether it exists or not."""
    _element(_Command.MAP_UPDATE_ELEM, fd, key, ctypes.create_string_buffer(value, len(value)))


def lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Return an element, or None. Of a per-CPU map: the values of all possible CPUs, each rounded up to 8 bytes."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _element(_Command.MAP_LOOKUP_ELEM, fd, key, value)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def delete(fd: int, key: bytes) -> None:
    """Remove an element; one that is not there is fine."""
    try:
        _element(_Command.MAP_DELETE_ELEM, fd, key, None)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def keys(fd: int, key_bytes: int) -> list[bytes]:
    """Return all keys. The map may change meanwhile: then a key may be missing or appear twice."""
    found: list[bytes] = []
    key: bytes | None = None
    while True:
        following = ctypes.create_string_buffer(key_bytes)
        try:
            _element(_Command.MAP_GET_NEXT_KEY, fd, key, following)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return found
            raise
        key = following.raw
        found.append(key)


def values(fd: int, entries: int, value_bytes: int) -> list[bytes]:
    """Return all elements of an array, in one call."""
    keys_ = ctypes.create_string_buffer(4 * entries)
    values_ = ctypes.create_string_buffer(value_bytes * entries)
    out_batch = ctypes.create_string_buffer(4)
    # struct { in_batch, out_batch, keys, values: u64; count, map_fd: u32; elem_flags, flags: u64 } of bpf(2).
    attr = struct.pack(
        "=QQQQIIQQ",
        0,
        ctypes.addressof(out_batch),
        ctypes.addressof(keys_),
        ctypes.addressof(values_),
        entries,
        fd,
        0,
        0,
    )
    try:
        _bpf(_Command.MAP_LOOKUP_BATCH, attr)
    except OSError as error:
        if error.errno != errno.ENOENT:  # the end was reached
            raise
    raw = values_.raw
    return [raw[at : at + value_bytes] for at in range(0, len(raw), value_bytes)]


def map_spec(fd: int) -> MapSpec:
    """Return how an existing map was created."""
    type_, _id, key, value, entries, flags, name = struct.unpack_from("=IIIIII16s", _info(fd))
    try:
        map_type = MapType(type_)
    except ValueError:
        raise BpfError(f"cannot use a map of type {type_}: not one of ours") from None
    return MapSpec(name.rstrip(b"\0").decode(), map_type, key, value, entries, flags)


def load_program(
    name: str, instructions: bytes, program_type: ProgramType, attach_type: AttachType, flags: int = 0
) -> int:
    """Load a program; return its descriptor. Raises `BpfError` with the verifier's reasons."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_ = ctypes.create_string_buffer(LICENSE)

    def attr(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
        return struct.pack(
            "=IIQQIIQII16sII",
            program_type,
            len(instructions) // 8,
            ctypes.addressof(code),
            ctypes.addressof(license_),
            1 if log is not None else 0,
            len(log) if log is not None else 0,
            ctypes.addressof(log) if log is not None else 0,
            0,
            flags,
            name.encode()[:15],
            0,
            attach_type,
        )

    try:
        return _bpf(_Command.PROG_LOAD, attr(None))[0]
    except OSError as error:
        # Without CAP_PERFMON it is the verifier who refuses, for reasons that would mislead.
        if error.errno == errno.EPERM or (error.errno == errno.EACCES and not _may_compare_pointers()):
            raise BpfError(f"cannot load {name}: {why_not('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON')}") from None
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.E2BIG):
            raise BpfError(f"cannot load {name}: {error.strerror}") from None
    # The log is asked for only now: writing it makes a load ten times slower.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return _bpf(_Command.PROG_LOAD, attr(log))[0]
    except OSError as error:
        reasons = log.value.decode(errors="replace").splitlines()
        raise BpfError(
            f"cannot load {name}: {error.strerror}; the verifier says:\n" + "\n".join(reasons[-30:])
        ) from None


def _may_compare_pointers() -> bool:
    """Say whether this process has CAP_PERFMON, or CAP_SYS_ADMIN, which includes it."""
    return not _missing(["CAP_PERFMON"])


def why_not(*capabilities: str) -> str:
    """Return why a call that needs these was not permitted, in words that follow "cannot ...:"."""
    if _missing(capabilities):
        *first, last = capabilities
        return f"needs {', '.join(first)} and {last}" if first else f"needs {last}"
    return f"bpf(2) is refused although {capabilities[0]} is there: a seccomp filter or a user namespace does that"


def _missing(capabilities: Iterable[str]) -> list[str]:
    """Return those that are not effective. CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    have = int(line.split()[1], 16)
    if have >> _CAP_SYS_ADMIN & 1:
        have |= 1 << _CAPABILITIES["CAP_BPF"] | 1 << _CAPABILITIES["CAP_PERFMON"]
    return [name for name in capabilities if not have >> _CAPABILITIES[name] & 1]


def program_info(fd: int) -> ProgramInfo:
    """Return what the kernel knows about a program."""
    raw = _info(fd)
    _, _, tag, jited, xlated = struct.unpack_from("=II8sII", raw)
    run_time_ns, run_count, _, verified = struct.unpack_from("=QQQI", raw, 192)
    return ProgramInfo(tag.hex(), xlated // 8, jited, verified, run_time_ns, run_count)


def pin(fd: int, path: Path) -> None:
    """Give an object a name in bpffs, which keeps it alive."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_Command.OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def open_pin(path: Path) -> int:
    """Return a descriptor of a pinned object."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_Command.OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))[0]


def link_xdp(program_fd: int, interface_index: int, mode: XdpMode) -> int:
    """Attach to an interface of the current network namespace. It ends with the last descriptor or pin of the link."""
    return _bpf(_Command.LINK_CREATE, struct.pack("=IIII", program_fd, interface_index, AttachType.XDP, mode))[0]


def update_link(link_fd: int, program_fd: int) -> None:
    """Put another program behind a link; no packet sees neither of them. ENOLINK: the interface is gone."""
    _bpf(_Command.LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def detach_link(link_fd: int) -> None:
    """Detach now, whoever else holds the link."""
    _bpf(_Command.LINK_DETACH, struct.pack("=I", link_fd))


def link_interface(link_fd: int) -> int:
    """Return the index of the interface an XDP link is on; 0 when that interface is gone."""
    _type, _id, _program, index = struct.unpack_from("=III4xI", _info(link_fd))
    return int(index)


def run_on_frame(program_fd: int, frame: bytes, repeat: int = 1) -> tuple[int, int, bytes]:
    """Run an XDP program on a frame; return (action, ns per run, the frame afterwards)."""
    frame_in = ctypes.create_string_buffer(frame, len(frame))
    frame_out = ctypes.create_string_buffer(len(frame) + 256)
    attr = struct.pack(
        "=IIIIQQII",
        program_fd,
        0,
        len(frame),
        len(frame_out),
        ctypes.addressof(frame_in),
        ctypes.addressof(frame_out),
        repeat,
        0,
    )
    _, answer = _bpf(_Command.PROG_TEST_RUN, attr)
    _, action, _, out_bytes, _, _, _, duration_ns = struct.unpack_from("=IIIIQQII", answer)
    return action, duration_ns, frame_out.raw[:out_bytes]


def measure_run_time() -> int:
    """Have the kernel measure all programs while the returned descriptor is open (`ProgramInfo.run_time_ns`)."""
    return _bpf(_Command.ENABLE_STATS, struct.pack("=I", 0))[0]


def possible_cpus() -> int:
    """Return how many values a per-CPU map has."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").split("-")[-1]
    return int(last) + 1


def _info(fd: int) -> bytes:
    raw = ctypes.create_string_buffer(256)
    _bpf(_Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(raw), ctypes.addressof(raw)))
    return raw.raw
