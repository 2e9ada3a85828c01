"""Doctor's findings about the kernel: version, required system calls, capabilities, BPF JIT and compiler."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from velocity_edge.machine import capabilities
from velocity_edge.machine.findings import Finding, Level
from velocity_edge.machine.needs import REMEDY, lacking

_OLDEST: Final = (5, 15)
#: What a node lacks without a capability. The tiers are tried (dispatch.py), and so is the user of workers (host.py).
_WITHOUT: Final = {
    "CAP_NET_BIND_SERVICE": "ports from {first_port}",
    "CAP_NET_ADMIN": "buffers within net.core.rmem_max",
    "CAP_SYS_NICE": "latency while workers start",
    "CAP_DAC_READ_SEARCH": "only files that this user may read",
}


def kernel() -> Iterator[Finding]:
    """Examine what the kernel permits."""
    yield _version()
    yield _needs()
    yield rights(capabilities.get()[0], _read("/proc/sys/net/ipv4/ip_unprivileged_port_start") or "1024")
    yield _jit()
    yield _compiler()


def _version() -> Finding:
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < _OLDEST:
        return Finding("kernel", Level.LACKING, f"Linux {release}", "use 5.15 or later; older versions are not tested")
    return Finding("kernel", Level.FINE, f"Linux {release} on {platform.machine()}")


def _needs() -> Finding:
    if lacks := lacking():
        return Finding("system calls", Level.FATAL, "; ".join(lacks), REMEDY)
    return Finding("system calls", Level.FINE, "all that a node requires")


def rights(effective: int, first_port: str) -> Finding:
    """Return what a node lacks with these capabilities."""
    missing = capabilities.missing(_WITHOUT, effective)
    if first_port == "0" and "CAP_NET_BIND_SERVICE" in missing:
        missing.remove("CAP_NET_BIND_SERVICE")
    if not missing:
        return Finding("rights", Level.FINE, ", ".join(_WITHOUT))
    text = "; ".join(f"without {name}: {_WITHOUT[name].format(first_port=first_port)}" for name in missing)
    return Finding("rights", Level.LACKING, text, "see docs/containers.md; workers never have capabilities")


def _jit() -> Finding:
    setting = _read("/proc/sys/net/core/bpf_jit_enable")
    if setting == "0":
        return Finding(
            "BPF JIT", Level.LACKING, "off: packet programs are interpreted", "sysctl net.core.bpf_jit_enable=1"
        )
    return Finding(
        "BPF JIT", Level.FINE if setting else Level.NOTE, "on" if setting else "unknown: the setting cannot be read"
    )


def _compiler() -> Finding:
    bcc = next(Path("/usr/lib/python3/dist-packages").glob("bcc/__init__.py"), None)
    clang = shutil.which("clang")
    found = [name for name, there in (("bcc (python3-bpfcc)", bcc), (f"{clang}", clang)) if there]
    if found:
        return Finding("BPF compiler", Level.FINE, " and ".join(found))
    return Finding(
        "BPF compiler",
        Level.LACKING,
        "neither bcc nor clang: packet programs cannot be compiled",
        "apt install python3-bpfcc",
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
