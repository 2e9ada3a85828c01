"""Finds the process that holds a UDP address, and workers that an earlier node left running. Read from /proc.

    /proc/net/udp, udp6          address -> inode of the socket
    /proc/PID/fd                 inode -> process, as far as permitted (the same user's, or all of them as root)
    /proc/PID/cmdline            the title that a velocity-edge process sets (velocity_edge/wire/titles.py)

Titles and commands come from other processes and are escaped.
"""

from __future__ import annotations

import ipaddress
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.machine.spawn import start_ticks
from velocity_edge.paths import runtime_dir
from velocity_edge.text.printable import printable
from velocity_edge.wire.messages import Listener
from velocity_edge.wire.titles import Orphan, orphan_of

_PROC: Final = Path("/proc")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_MAX_COMMAND: Final = 80


@dataclass(frozen=True, slots=True)
class OrphanProcess:
    """A worker without a supervisor; it serves, or has drained."""

    pid: int
    orphan: Orphan


def who_listens(listener: Listener) -> str:
    """Return a sentence about the process that holds this address, as far as it can be found."""
    unknown = "another program listens there: `ss -ulpn` as root shows which one"
    pids = sorted(_holders(_inodes(listener)))
    orphans = [found for pid in pids if (found := orphan(pid))]
    if orphans:
        return "another program listens there: " + "; ".join(map(_orphan_text, orphans))
    if pids:
        supervisors = [pid for pid in pids if title(pid).startswith("velocity-edge: supervisor")]
        return "another program listens there: " + _program((supervisors or pids)[0])
    if left := list(all_orphans()):
        return f"{unknown}; perhaps it is {'; '.join(map(_orphan_text, left))}"
    return unknown


def all_orphans() -> Iterator[OrphanProcess]:
    """Yield every worker on this machine whose title states that it has no supervisor."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (found := orphan(int(entry.name))):
            yield found


def orphan(pid: int) -> OrphanProcess | None:
    """Return the title of a process, parsed, if it is a worker without a supervisor."""
    found = orphan_of(title(pid))
    return OrphanProcess(pid, found) if found else None


def title(pid: int) -> str:
    """Return the command of a process, escaped; empty when it cannot be read."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()[:4096]
    except OSError:
        return ""
    text = raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return printable(text)


def _orphan_text(found: OrphanProcess) -> str:
    orphan, own = found.orphan, runtime_dir()
    where = "" if not orphan.runtime or Path(orphan.runtime) == own else f"VELOCITY_RUNTIME_DIR={orphan.runtime} "
    of = f"the node in {orphan.runtime}" if orphan.runtime else "an earlier node"
    since = f", since {orphan.since}" if orphan.since else ""
    return (
        f"worker {orphan.worker_id} of {of} (process {found.pid}), which has no supervisor{since}: "
        f"`{where}velocity-edge admin stop --orphans` ends it"
    )


def _program(pid: int) -> str:
    command = title(pid)
    short = command[:_MAX_COMMAND] + ("..." if len(command) > _MAX_COMMAND else "")
    started = f", started {_age(pid)} ago" if _age(pid) else ""
    if command.startswith("velocity-edge: "):
        runtime = _runtime_of(pid)
        line = f"`VELOCITY_RUNTIME_DIR={runtime} velocity-edge admin stop` stops it" if runtime else ""
        which = f"the velocity-edge node in {runtime}" if runtime else "a velocity-edge node"
        return f"{which} (process {pid}{started}){': ' if line else ''}{line}"
    return f"process {pid} (`{short}`{started})"


def _runtime_of(pid: int) -> str:
    """Return the runtime directory of a supervisor, from the lock file that it holds open."""
    for target in _open_files(pid):
        if target.endswith("/supervisor.lock"):
            return printable(target.rpartition("/")[0])
    return ""


def _age(pid: int) -> str:
    ticks = start_ticks(pid)
    if ticks is None:
        return ""
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS_PER_S
    return f"{age_s:.0f} s" if age_s < 120 else f"{age_s / 60:.0f} min" if age_s < 7200 else f"{age_s / 3600:.0f} h"


def _holders(inodes: set[int]) -> set[int]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if not wanted:
        return set()
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return {pid for pid in pids if pid != os.getpid() and any(target in wanted for target in _open_files(pid))}


def _open_files(pid: int) -> Iterator[str]:
    try:
        for entry in (_PROC / str(pid) / "fd").iterdir():
            yield str(entry.readlink())
    except OSError:
        return  # not permitted, or the process has ended


def _inodes(listener: Listener) -> set[int]:
    """Return the inodes of the sockets that conflict: the same port, and the same address or a wildcard."""
    wanted = _unmapped(ipaddress.ip_address(listener.host.partition("%")[0]))
    found: set[int] = set()
    for name in ("udp", "udp6"):
        try:
            rows = (_PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            host, _, port = fields[1].partition(":")
            address = _unmapped(_address(host))
            same = address == wanted or address.is_unspecified or wanted.is_unspecified
            if int(port, 16) == listener.port and same:
                found.add(int(fields[9]))
    return found


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))


def _unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address
