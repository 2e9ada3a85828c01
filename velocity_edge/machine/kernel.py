"""The kernel's side of dispatch: version, rights, BPF, bpffs, a compiler for the packet programs."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from velocity_edge.machine.findings import Finding, Level

#: linux/capability.h
_CAPABILITIES: Final = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
_BPF_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
_BPF_MAP_CREATE: Final = 0
_BPF_MAP_TYPE_ARRAY: Final = 2
_OLDEST: Final = (5, 15)


def kernel() -> Iterator[Finding]:
    """Look at what tiers B, C and D need."""
    yield _version()
    yield _capabilities()
    yield _bpf()
    yield _jit()
    yield _bpffs()
    yield _compiler()


def _version() -> Finding:
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < _OLDEST:
        return Finding("kernel", Level.LACKING, f"Linux {release}", "5.15 or later: older ones were never tried")
    return Finding("kernel", Level.FINE, f"Linux {release} on {platform.machine()}")


def effective_capabilities(status: str) -> set[str]:
    """Return those of our capabilities that the text of /proc/self/status grants."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    return {name for name, bit in _CAPABILITIES.items() if bits >> bit & 1}


def _capabilities() -> Finding:
    have = effective_capabilities(Path("/proc/self/status").read_text())
    missing = [name for name in _CAPABILITIES if name not in have]
    if not missing:
        return Finding("rights", Level.FINE, "all that a supervisor uses: " + ", ".join(_CAPABILITIES))
    return Finding(
        "rights",
        Level.LACKING,
        f"without {', '.join(missing)}: dispatch stays in tier A"
        + (", ports from 1024" if "CAP_NET_BIND_SERVICE" in missing else ""),
        "start the supervisor as root or with these capabilities; workers have none in any case",
    )


def _bpf() -> Finding:
    number = _BPF_SYSCALL.get(platform.machine())
    if number is None:
        return Finding("BPF", Level.LACKING, f"no loader for {platform.machine()}: dispatch stays in tier A")
    # union bpf_attr of BPF_MAP_CREATE: type, key size, value size, entries; the rest is zero.
    attributes = (ctypes.c_uint32 * 32)(_BPF_MAP_TYPE_ARRAY, 4, 8, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(number, _BPF_MAP_CREATE, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if descriptor >= 0:
        os.close(descriptor)
        return Finding("BPF", Level.FINE, "maps can be made")
    why = os.strerror(ctypes.get_errno())
    return Finding(
        "BPF",
        Level.LACKING,
        f"bpf(2) says {why}: dispatch stays in tier A",
        "CAP_BPF, or a container that allows bpf(2)",
    )


def _jit() -> Finding:
    setting = _read("/proc/sys/net/core/bpf_jit_enable")
    if setting == "0":
        return Finding(
            "BPF JIT", Level.LACKING, "off: packet programs are interpreted", "sysctl net.core.bpf_jit_enable=1"
        )
    return Finding("BPF JIT", Level.FINE if setting else Level.NOTE, "on" if setting else "not visible from here")


def _bpffs() -> Finding:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("bpf "):
            where = fields.split()[4]
            if os.access(where, os.W_OK):
                return Finding("bpffs", Level.FINE, f"at {where}")
            return Finding("bpffs", Level.LACKING, f"at {where}, not writable: programs would not survive a supervisor")
    return Finding(
        "bpffs", Level.NOTE, "not mounted; a supervisor with CAP_SYS_ADMIN mounts it", "mount -t bpf bpf /sys/fs/bpf"
    )


def _compiler() -> Finding:
    bcc = next(Path("/usr/lib/python3/dist-packages").glob("bcc/__init__.py"), None)
    clang = shutil.which("clang")
    found = [name for name, there in (("bcc (python3-bpfcc)", bcc), (f"{clang}", clang)) if there]
    if found:
        return Finding("BPF compiler", Level.FINE, " and ".join(found))
    return Finding(
        "BPF compiler", Level.LACKING, "neither bcc nor clang: dispatch stays in tier A", "apt install python3-bpfcc"
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
