"""Maps and programs in the kernel; each function is one system call (linux.py) with the kernel's own names.

It decides nothing. Errors are OSError as the kernel gives them, except from `load_program`, whose `BpfError` has the
reasons of the verifier. Every descriptor returned is close-on-exec and must be closed by the caller.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bpf import BpfError
from bpf.linux import AttachType, Command, MapType, ProgramType, call, object_info

_LOG_BYTES = 1 << 22
#: linux/capability.h
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
_CAP_SYS_ADMIN = 21

LICENSE = b"Dual MIT/GPL"


@dataclass(frozen=True, slots=True)
class MapSpec:
    """How a map is created. Sizes in bytes."""

    name: str
    type: MapType
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int = 0


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
    return call(Command.MAP_CREATE, attr)[0]


def _element(command: Command, fd: int, key: bytes | None, value: ctypes.Array[ctypes.c_char] | None) -> None:
    key_buffer = ctypes.create_string_buffer(key, len(key)) if key is not None else None
    key_at = ctypes.addressof(key_buffer) if key_buffer is not None else 0
    value_at = ctypes.addressof(value) if value is not None else 0
    call(command, struct.pack("=I4xQQQ", fd, key_at, value_at, 0))


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set an element, whether it exists or not."""
    _element(Command.MAP_UPDATE_ELEM, fd, key, ctypes.create_string_buffer(value, len(value)))


def lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Return an element, or None. Of a per-CPU map: the values of all possible CPUs, each rounded up to 8 bytes."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _element(Command.MAP_LOOKUP_ELEM, fd, key, value)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def delete(fd: int, key: bytes) -> None:
    """Remove an element. One that does not exist is not an error."""
    try:
        _element(Command.MAP_DELETE_ELEM, fd, key, None)
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
            _element(Command.MAP_GET_NEXT_KEY, fd, key, following)
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
        call(Command.MAP_LOOKUP_BATCH, attr)
    except OSError as error:
        if error.errno != errno.ENOENT:  # ENOENT: the end was reached
            raise
    raw = values_.raw
    return [raw[at : at + value_bytes] for at in range(0, len(raw), value_bytes)]


def map_spec(fd: int) -> MapSpec:
    """Return how an existing map was created."""
    type_, _id, key, value, entries, flags, name = struct.unpack_from("=IIIIII16s", object_info(fd))
    try:
        map_type = MapType(type_)
    except ValueError:
        raise BpfError(f"cannot use a map of the unknown type {type_}") from None
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
        return call(Command.PROG_LOAD, attr(None))[0]
    except OSError as error:
        # Without CAP_PERFMON the verifier refuses with reasons that would mislead.
        if error.errno == errno.EPERM or (error.errno == errno.EACCES and not _may_compare_pointers()):
            raise BpfError(f"cannot load {name}: {why_not('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON')}") from None
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.E2BIG):
            raise BpfError(f"cannot load {name}: {error.strerror}") from None
    # Only now with a log: writing it makes a load ten times slower.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return call(Command.PROG_LOAD, attr(log))[0]
    except OSError as error:
        reasons = log.value.decode(errors="replace").splitlines()
        raise BpfError(f"cannot load {name}: {error.strerror}; verifier log:\n" + "\n".join(reasons[-30:])) from None


def _may_compare_pointers() -> bool:
    """Return whether this process has CAP_PERFMON, or CAP_SYS_ADMIN, which includes it."""
    return not _missing(["CAP_PERFMON"])


def why_not(*capabilities: str) -> str:
    """Return why a call that needs these was not permitted, to follow "cannot ...:"."""
    if _missing(capabilities):
        *first, last = capabilities
        return f"needs {', '.join(first)} and {last}" if first else f"needs {last}"
    return f"bpf(2) was refused although the process has {capabilities[0]}: by a seccomp filter or a user namespace"


def _missing(capabilities: Iterable[str]) -> list[str]:
    """Return those that are not effective. CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    have = int(line.split()[1], 16)
    if have >> _CAP_SYS_ADMIN & 1:
        have |= 1 << _CAPABILITIES["CAP_BPF"] | 1 << _CAPABILITIES["CAP_PERFMON"]
    return [name for name in capabilities if not have >> _CAPABILITIES[name] & 1]


def possible_cpus() -> int:
    """Return how many values a per-CPU map has."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").split("-")[-1]
    return int(last) + 1
