"""The network of the experiment: two namespaces, a veth pair between them, and the kernel's counters of both ends.

What the client's side sent is counted by the queue in front of its interface (`pfifo`), which is independent and
counts each segment of a GSO packet. What the server's side did with UDP is in /proc/net/snmp of its namespace. Neither
is counted by code of this project.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

SERVER_IP, CLIENT_IP = "10.88.0.1", "10.88.0.2"
PORT = 4433
SERVER_MAC, CLIENT_MAC = "02:00:00:00:88:01", "02:00:00:00:88:02"


@dataclass(frozen=True, slots=True)
class Net:
    """Two namespaces joined by a veth pair: s0 and c0."""

    server: str
    client: str

    def in_server(self, *argv: str) -> list[str]:
        """Return the command line that runs *argv* on the server's side."""
        # Not `ip netns exec`: that gives every process its own /sys, and so a bpffs without our pins.
        return ["nsenter", f"--net=/run/netns/{self.server}", *argv]

    def in_client(self, *argv: str) -> list[str]:
        """Return the command line that runs *argv* on the client's side."""
        return ["nsenter", f"--net=/run/netns/{self.client}", *argv]

    def sent_by_client(self) -> tuple[int, int]:
        """Return (packets that went from c0 to the wire, packets that were dropped before that)."""
        shown = _run("tc", "-n", self.client, "-s", "qdisc", "show", "dev", "c0")
        found = re.search(r"Sent \d+ bytes (\d+) pkt \(dropped (\d+),", shown)
        assert found, shown
        link = _run("ip", "-n", self.client, "-s", "link", "show", "c0")
        # The line behind "TX: bytes packets errors dropped ...".
        dropped = int(link.split("TX:")[1].splitlines()[1].split()[3])
        return int(found[1]) - dropped, int(found[2]) + dropped

    def udp_of_server(self) -> dict[str, int]:
        """Return what the kernel counted for UDP on the server's side: InDatagrams, NoPorts, RcvbufErrors, ..."""
        lines = [
            line.split() for line in _run(*self.in_server("cat", "/proc/net/snmp")).splitlines() if line[:4] == "Udp:"
        ]
        return dict(zip(lines[0][1:], map(int, lines[1][1:]), strict=True))


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


@contextlib.contextmanager
def network() -> Iterator[Net]:
    """Make the namespaces, and delete them (and whatever still runs in them) afterwards."""
    net = Net(f"vehl-s{os.getpid()}", f"vehl-c{os.getpid()}")
    ends = (
        (net.server, "s0", SERVER_IP, SERVER_MAC, CLIENT_IP, CLIENT_MAC),
        (net.client, "c0", CLIENT_IP, CLIENT_MAC, SERVER_IP, SERVER_MAC),
    )
    try:
        for name in (net.server, net.client):
            _ip("netns", "add", name)
            # Only what the experiment sends is on the wire: no IPv6 neighbours, no ARP.
            _run("nsenter", f"--net=/run/netns/{name}", "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        _ip("link", "add", "s0", "netns", net.server, "type", "veth", "peer", "name", "c0", "netns", net.client)
        for name, device, address, mac, peer, peer_mac in ends:
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", device, "address", mac, "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", name, "neighbour", "replace", peer, "lladdr", peer_mac, "dev", device, "nud", "permanent")
        _run("tc", "-n", net.client, "qdisc", "add", "dev", "c0", "root", "pfifo", "limit", "10000")
        yield net
    finally:
        for name in (net.server, net.client):
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            for pid in pids.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
