"""A flood of spoofed first flights: each is a valid Initial with an expensive handshake that ends at once.

    python -m bench.flood make FILE COUNT                   write COUNT datagrams, 1,200 bytes each
    python -m bench.flood send FILE HOST PORT PER_S SECONDS NETWORKS

A datagram holds a whole ClientHello (X25519) and, behind it, a CONNECTION_CLOSE: the server computes its flight for a
connection that is closed. Sources are 10.88.0.0 and the NETWORKS - 1 /24s that follow; answers are routed to the
sender and dropped there. `send` needs root (a raw socket), says "sending" when it begins and stops by itself.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from tests.support.attacker import hello, hello_datagrams

DATAGRAM_BYTES = 1200
#: What every source is in: the server's namespace needs a route for it.
SOURCES = "10.88.0.0/16"
_CLOSE = b"\x1c\0\0\0"
_UDP_BYTES, _IP_BYTES = 8, 20


def make(path: Path, count: int) -> None:
    """Write *count* datagrams that differ in the client's connection ID."""
    message = hello()
    with path.open("wb") as file:
        for _ in range(count):
            [datagram] = hello_datagrams(message, _CLOSE, dcid=os.urandom(8))
            assert len(datagram) == DATAGRAM_BYTES
            file.write(datagram)


def packets(data: bytes, port: int, networks: int, seed: int = 1) -> list[bytes]:
    """Return the datagrams as IPv4 packets, without destination: the kernel fills in what is zero (raw(7))."""
    dice = random.Random(seed)
    found = []
    udp_bytes = _UDP_BYTES + DATAGRAM_BYTES
    for start in range(0, len(data), DATAGRAM_BYTES):
        source = bytes((10, 88, dice.randrange(networks), dice.randrange(1, 255)))
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, _IP_BYTES + udp_bytes, 0, 0, 64, 17, 0, source, bytes(4))
        udp = struct.pack("!HHHH", dice.randrange(1024, 65_536), port, udp_bytes, 0)
        found.append(ip + udp + data[start : start + DATAGRAM_BYTES])
    return found


def send(path: Path, host: str, port: int, per_s: int, seconds: float, networks: int) -> int:
    """Send for *seconds*, evenly, from the start of the file again when it is over; return how many left."""
    ready = packets(path.read_bytes(), port, networks)
    address = socket.inet_aton(host)
    ready = [packet[:16] + address + packet[20:] for packet in ready]
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    print("sending", flush=True)
    began, sent = time.monotonic(), 0
    for packet in itertools.cycle(ready):
        due = began + sent / per_s
        if due > began + seconds:
            break
        # A pause of a millisecond is a few packets at the highest rate.
        while (wait := due - time.monotonic()) > 0:
            time.sleep(max(wait, 0.001))
        try:
            sock.sendto(packet, (host, 0))
        except OSError:
            continue  # the queue was full: this one is lost, the rate stays
        sent += 1
    return sent


def main(arguments: list[str]) -> None:
    """Carry out the command line above."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    match arguments:
        case ["make", path, count]:
            make(Path(path), int(count))
        case ["send", path, host, port, per_s, seconds, networks]:
            print(send(Path(path), host, int(port), int(per_s), float(seconds), int(networks)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
