"""Two network namespaces with a veth pair between them, and a context manager that enters one of them.

Names contain the process id, so that parallel runs do not collide. Neighbours are static: a packet that waits for ARP
would not be counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()

CLIENT_MAC, SERVER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


@dataclass(frozen=True)
class Network:
    """`client` and `server` are namespaces; the server's interface is `veth`. Addresses by family: 4 and 6."""

    client: str
    server: str
    veth: ClassVar = "veth"
    client_address: ClassVar = {4: "10.9.0.1", 6: "fd09::1"}
    server_address: ClassVar = {4: "10.9.0.2", 6: "fd09::2"}

    def xdp_mode(self) -> str:
        """Return "native", "generic" or "" as the kernel shows it."""
        line = ip(f"-n {self.server} link show {self.veth}").splitlines()[0]
        return "generic" if " xdpgeneric " in line else "native" if " xdp " in line else ""


def ip(arguments: str) -> str:
    done = subprocess.run(["ip", *shlex.split(arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {arguments}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def network() -> Iterator[Network]:
    name = f"ve-{os.getpid()}-{next(_numbers)}"
    made = Network(f"{name}-c", f"{name}-s")
    ends = (
        (made.client, CLIENT_MAC, SERVER_MAC, made.client_address, made.server_address),
        (made.server, SERVER_MAC, CLIENT_MAC, made.server_address, made.client_address),
    )
    try:
        for namespace in (made.client, made.server):
            ip(f"netns add {namespace}")
        ip(f"-n {made.client} link add veth type veth peer name veth netns {made.server}")
        for namespace, mac, peer_mac, own, peer in ends:
            ip(f"-n {namespace} link set lo up")
            ip(f"-n {namespace} link set veth address {mac} up")
            ip(f"-n {namespace} address add {own[4]}/24 dev veth")
            ip(f"-n {namespace} address add {own[6]}/64 dev veth nodad")
            for address in peer.values():
                ip(f"-n {namespace} neighbour replace {address} lladdr {peer_mac} dev veth nud permanent")
        yield made
    finally:
        for namespace in (made.client, made.server):
            if Path("/run/netns", namespace).exists():
                ip(f"netns delete {namespace}")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets made by this thread inside the context belong to *namespace*."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert _libc.setns(there, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert _libc.setns(before, _CLONE_NEWNET) == 0
        os.close(there)
        os.close(before)
