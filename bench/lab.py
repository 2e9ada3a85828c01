"""The environment of the measurements: two network namespaces, a core for each side, and accounting of CPU time.

The server has core 0 and the address 10.77.0.1, the load generator core 1 and 10.77.0.2, a veth pair lies between.
The CPU time of the server's processes is read from their scheduler statistics (nanoseconds, threads included), so
that a result has a rate and its cost; the CPU time of all other processes meanwhile is reported as
`foreign`, because it disturbs a measurement more than anything else.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import sid

SERVER_ADDRESS, LOAD_ADDRESS = "10.77.0.1", "10.77.0.2"
SERVER_CORE, LOAD_CORE = "0", "1"
LOADGEN = Path(__file__).parent / "loadgen"
LIBRARIES = "libngtcp2 libngtcp2_crypto_ossl libnghttp3 libssl libcrypto"


class BenchError(Exception):
    """A benchmark that cannot be run here, with the reason."""


@dataclass(frozen=True, slots=True)
class Lab:
    """Two namespaces and the load generator."""

    server_namespace: str
    load_namespace: str
    loadgen: str

    def server_command(self, *argv: str | Path) -> list[str]:
        """A command of this machine, on the server's side."""
        pin = ["taskset", "-c", SERVER_CORE]
        return ["ip", "netns", "exec", self.server_namespace, *pin, *map(str, argv)]

    def sid_server_command(self, *argv: str | Path) -> list[str]:
        """A command of the sid root, on the server's side."""
        return self.server_command(*sid.command(*argv))

    def attacker_command(self, *argv: str | Path) -> list[str]:
        """A command of this machine, on the load generator's side."""
        return ["ip", "netns", "exec", self.load_namespace, "taskset", "-c", LOAD_CORE, *map(str, argv)]

    def route(self, network: str) -> None:
        """Send the server's answers for *network* to the load generator's side, which drops them."""
        _ip("-n", self.server_namespace, "route", "replace", network, "via", LOAD_ADDRESS)

    def load_command(self, *argv: str) -> list[str]:
        """The load generator with these arguments."""
        pin = ["taskset", "-c", LOAD_CORE]
        return ["ip", "netns", "exec", self.load_namespace, *pin, *sid.command(self.loadgen, *argv)]


@contextmanager
def lab() -> Iterator[Lab]:
    """Build the load generator and the namespaces; take the namespaces down at the end."""
    if reason := sid.missing("bench"):
        raise BenchError(f"cannot measure: {reason}")
    if (os.cpu_count() or 1) < 2:
        raise BenchError("cannot measure: server and load need a core each, and this machine has one")
    loadgen = build_loadgen()
    server, load = (f"ve-bench-{side}-{os.getpid()}" for side in ("server", "load"))
    try:
        for name in (server, load):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", server, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", load)
        for name, address in ((server, SERVER_ADDRESS), (load, LOAD_ADDRESS)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            _ip("-n", name, "link", "set", "wire", "up")
        yield Lab(server, load, loadgen)
    finally:
        for name in (server, load):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def build_loadgen() -> str:
    """Compile bench/loadgen in the sid root, once per version of its sources; return its path in there."""
    sources = sorted(LOADGEN.glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    path = f"/usr/local/bin/velocity-load-{digest}"
    compiled = sid.run(
        *("sh", "-euc"),
        f"[ -x {path} ] || {{ cd /mnt/loadgen && gcc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -o {path} *.c"
        f" $(pkg-config --cflags --libs {LIBRARIES}); }}",
        env={**os.environ, "VELOCITY_ROOT_BIND": f"{LOADGEN.resolve()}:/mnt/loadgen"},
    )
    if compiled.returncode != 0:
        raise BenchError(f"cannot build the load generator:\n{compiled.stderr}")
    return path


def _ip(*argv: str) -> None:
    done = subprocess.run(["ip", *argv], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"cannot make the network: ip {' '.join(argv)}: {done.stderr.strip()}")


# --- one measurement --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """The output of the load generator, and its CPU time."""

    said: dict[str, Any]
    server_cpu_s: float
    wall_s: float
    #: Share of one core that neither the server nor the load generator used.
    foreign: float
    #: Proportional set size of the server: before, and (idle runs) while all connections were open.
    before_bytes: int
    open_bytes: int


def measure(lab: Lab, server_pid: int, *argv: str, hold_s: float = 0.0) -> Measured:
    """Run the load generator once. With *hold_s* (idle runs) hold its connections that long, then look at memory."""
    before_bytes = memory_bytes(server_pid)
    busy, server, began = _busy_s(), cpu_s(server_pid), time.monotonic()
    process = subprocess.Popen(
        lab.load_command(*argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    open_bytes = before_bytes
    if hold_s:
        assert process.stdout
        process.stdout.readline()  # all connections are open
        time.sleep(hold_s)
        open_bytes = memory_bytes(server_pid)
    output, errors = process.communicate(timeout=300)
    wall = time.monotonic() - began
    if process.returncode != 0:
        raise BenchError(f"the load generator failed: {errors}")
    said = json.loads(output.splitlines()[-1])
    server_cpu = cpu_s(server_pid) - server
    foreign = (_busy_s() - busy - server_cpu) / wall - said["cpu_share"]
    return Measured(said, server_cpu, wall, max(0.0, foreign), before_bytes, open_bytes)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process tree so far (live processes and threads)."""
    total_ns = 0
    for member in tree(pid):
        for task in Path(f"/proc/{member}/task").glob("*/schedstat"):
            try:
                total_ns += int(task.read_text().split()[0])
            except OSError:
                continue
    return total_ns / 1e9


def memory_bytes(pid: int) -> int:
    """Proportional set size of a process tree."""
    total_kib = 0
    for member in tree(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib * 1024


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    members = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            members += [member for child in children.read_text().split() for member in tree(int(child))]
        except OSError:
            continue
    return members


def _busy_s() -> float:
    """CPU seconds that the whole machine was not idle, since boot."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
