"""The cost of every attack for a worker and the delay of new clients, measured in the same way: a table.

    python -m tests.attack.table              # Markdown, both engines

An attack is a list of datagrams that are made before the clock starts, so that making them is not counted.
The columns: CPU of the engine per datagram; memory that it holds after the last one, per connection that
was used or per spoofed datagram; bytes out per byte in to unvalidated addresses; and how long (virtual time,
10 ms of round trip) an honest new client needs to connect while the state of the attack still exists.

test_table.py has the bounds. The other files test each bound of limits.py by an attack.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support import tls as tls_support
from tests.support.attacker import (
    Memory,
    crypto_frame,
    hello,
    hello_datagrams,
    in_packets,
    initial,
    packet,
    stream_frame,
    varint,
)
from tests.support.engine_driver import ENGINES, Address, StockClient, World
from velocity_edge.tls import kex

PING = b"\x01"
CLOSE = b"\x1c\0\0\0"
GET = bytes.fromhex("0000") + b"\xd1\xd7\x50\x01a\xc1"  # :method GET, :scheme https, :authority a, :path /
HEADERS = b"\x01" + varint(len(GET)) + GET
MLDSA65 = 0x0905
#: A new client that takes longer than this was kept out.
PATIENCE_S = 5.0
#: By then every half-open connection has timed out.
AFTERWARDS_S = 15.0

Datagrams = Iterator[tuple[Address, bytes]]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: its datagrams, and whether they come from clients with a connection."""

    name: str
    datagrams: Callable[[World], Datagrams]
    #: Datagrams are sent by `connections` clients that completed a handshake; 0: from spoofed addresses.
    connections: int = 0
    chain: str = "p256"
    #: Bounds: engine CPU per datagram, in first flights to a stock client; memory per connection or spoofed datagram.
    flights: float = 1.0
    kib: float = 96.0


@dataclass(frozen=True, slots=True)
class Cost:
    """`amplification` is None where every address was validated; `new_client_ms` None: it did not connect."""

    datagrams: int
    cpu_us: float
    held_kib: float
    amplification: float | None
    new_client_ms: float | None


def spoofed_address(number: int) -> Address:
    """An address in a /24 of its own for each of 65,536 numbers."""
    return (bytes((11 + number // 65_536, number >> 8 & 255, number & 255, 7)), 1024 + number % 60_000)


def _from_spoofed(count: int, make: Callable[[int], list[bytes]]) -> Callable[[World], Datagrams]:
    def datagrams(world: World) -> Datagrams:
        for number in range(count):
            for datagram in make(number):
                yield spoofed_address(number), datagram

    return datagrams


def _one_byte_crypto_frames(number: int) -> list[bytes]:
    dcid = os.urandom(8)
    first = itertools.chain(
        [crypto_frame(0, b"\x01\x00\x3f\xf0")], (crypto_frame(at, b"x") for at in range(5, 9000, 2))
    )
    return [
        initial(payload, dcid=dcid, scid=b"attacker", packet_number=each)
        for each, payload in enumerate(in_packets(first, 1100))
    ]


def _unknown_version(number: int) -> list[bytes]:
    return [b"\xc0\x6b\x33\x43\xcf\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + bytes(1200 - 23)]


def _lost_worker(world: World) -> Datagrams:
    for number in range(400):
        yield spoofed_address(number), b"\x40" + world.codec.issue(0x0A0B0C0D, 99) + os.urandom(60)


def _replayed_token(world: World) -> Datagrams:
    peer = spoofed_address(1)
    token = world.hooks.address_token(peer)
    for number in range(200):
        client = StockClient(world, (peer[0], 2000 + number), token=token)
        client.start()
        for datagram, _ in client.quic.datagrams_to_send(world.now_ns / 1e9):
            yield client.address, datagram


def _client(world: World) -> StockClient:
    """A connection of which only the keys are used."""
    client = world.ready()
    world.run(seconds=1)
    client.deaf = client.paused = True
    return client


def _frames(make: Callable[[], Iterator[bytes]]) -> Callable[[World], Datagrams]:
    def datagrams(world: World) -> Datagrams:
        client = _client(world)
        for payload in in_packets(make()):
            yield client.address, packet(client, payload)

    return datagrams


def _one_byte_stream_frames() -> Iterator[bytes]:
    for number in range(100):
        for offset in range(1, 4000, 2):
            yield stream_frame(4 * number, offset, b"x")


def _rapid_reset() -> Iterator[bytes]:
    for number in range(2000):
        stream = varint(4 * number)
        yield stream_frame(4 * number, 0, HEADERS) + b"\x04" + stream + b"\x41\x0c" + varint(len(HEADERS))


def _tiny_fields() -> Iterator[bytes]:
    section = GET + b"\x21a\x00" * 470
    frame = b"\x01" + varint(len(section) + 50) + section
    for number in range(100):
        for at in range(0, len(frame), 1200):
            yield stream_frame(4 * number, at, frame[at : at + 1200])


def _empty_data() -> Iterator[bytes]:
    yield stream_frame(0, 0, HEADERS)
    for number in range(400):
        yield stream_frame(0, len(HEADERS) + 1000 * number, b"\0\0" * 500)


def _migrations(world: World) -> Datagrams:
    client = _client(world)
    for number in range(1000):
        yield spoofed_address(number), packet(client, PING + bytes(20))


ATTACKS = (
    # Most of them must get a Retry.
    Attack(
        "hello and CONNECTION_CLOSE, x25519",
        _from_spoofed(1500, lambda n: hello_datagrams(hello(), CLOSE)),
        flights=0.45,
    ),
    Attack(
        "the same, secp384r1 and ML-DSA-65",
        _from_spoofed(400, lambda n: hello_datagrams(hello(kex.SECP384R1, schemes=(MLDSA65,)), CLOSE)),
        chain="mldsa65",
        flights=12.0,
    ),
    Attack(
        "hello and silence, X25519MLKEM768", _from_spoofed(400, lambda n: hello_datagrams(hello(kex.X25519_MLKEM768)))
    ),
    Attack(
        "hello and silence, RSA",
        _from_spoofed(400, lambda n: hello_datagrams(hello(schemes=(0x0804,)))),
        chain="rsa",
        flights=6.0,
    ),
    Attack("half a hello", _from_spoofed(600, lambda n: hello_datagrams(hello(kex.X25519_MLKEM768))[:1])),
    Attack("hello in one-byte frames", _from_spoofed(20, _one_byte_crypto_frames)),
    Attack("CRYPTO far ahead", _from_spoofed(400, lambda n: [initial(crypto_frame(1 << 30, b"x"))])),
    Attack("noise in an Initial", _from_spoofed(400, lambda n: [initial(PING)[:-1] + b"!"])),
    Attack("unknown version", _from_spoofed(400, _unknown_version)),
    Attack("short header of a worker that is gone", _lost_worker),
    Attack("one token, 200 times", _replayed_token, flights=3.0),
    Attack("PING, nothing acknowledged", _frames(lambda: (PING + bytes(1250) for _ in range(1000))), connections=1),
    Attack("PATH_CHALLENGE", _frames(lambda: (b"\x1a" + os.urandom(8) for _ in range(30_000))), connections=1),
    Attack("a new address for each packet", _migrations, connections=1),
    Attack("streams in one-byte frames", _frames(_one_byte_stream_frames), connections=1),
    Attack("requests that are reset at once", _frames(_rapid_reset), connections=1),
    # A hundred header sections of 16 KiB each may be in flight, half of them received.
    Attack("tiny fields without end", _frames(_tiny_fields), connections=1, kib=1024),
    # 500 frames in each.
    Attack("empty DATA frames", _frames(_empty_data), connections=1, flights=3.0),
    Attack("MAX_DATA", _frames(lambda: (b"\x10" + varint(1 << 40) for _ in range(100_000))), connections=1),
)


def flight_us(engine: str) -> float:
    """Return the CPU of one first flight to a stock client with an ECDSA chain: the measure of `Attack.flights`."""
    world = World(engine)
    try:
        flights = [datagram for _ in range(200) for datagram in hello_datagrams(hello())]
        begun_s = time.process_time()
        for number, datagram in enumerate(flights):
            world.inject(spoofed_address(number), datagram)
        return 1e6 * (time.process_time() - begun_s) / len(flights)
    finally:
        world.close()


def measure(attack: Attack, engine: str) -> Cost:
    """Run *attack* twice: for its CPU, and (counting costs time) for what it makes the engine hold."""
    cpu_s, count, _, amplification, new_client_ms = _run(attack, engine, count_memory=False)
    _, _, held, _, _ = _run(attack, engine, count_memory=True)
    return Cost(count, 1e6 * cpu_s / count, held / 1024 / (attack.connections or count), amplification, new_client_ms)


def _run(attack: Attack, engine: str, *, count_memory: bool) -> tuple[float, int, int, float | None, float | None]:
    world = World(engine, policy=tls_support.policy(tls_support.chain(attack.chain), tls_support.chain("p256")))
    try:
        datagrams = list(attack.datagrams(world))
        world.sent.clear()
        received, sent, held = 0, 0, 0
        begun_s = time.process_time()
        if count_memory:
            with Memory(world) as memory:
                for address, datagram in datagrams:
                    world.inject(address, datagram)
                    world.sent.clear()
                for kept in (world.app.requests, world.app.closed, world.app.stream_closed, world.hooks.initials):
                    kept.clear()
                held = max(0, memory.grown())
        else:
            for address, datagram in datagrams:
                world.inject(address, datagram)
                received += len(datagram)
                sent += sum(len(train.data) for train in world.sent)
                world.sent.clear()
        cpu_s = time.process_time() - begun_s
        honest = world.connect()
        came_ns = world.now_ns
        entered = world.run(lambda: honest.ready, seconds=PATIENCE_S)
        new_client_ms = (world.now_ns - came_ns) / 1e6 if entered else None
        # Lost packets are retransmitted, also to spoofed addresses.
        world.run(seconds=AFTERWARDS_S)
        sent += sum(len(train.data) for train in world.sent if train.peer != honest.address)
        amplification = None if attack.connections else sent / max(1, received)
        return cpu_s, len(datagrams), held, amplification, new_client_ms
    finally:
        world.close()


def main() -> None:
    """Print the table."""
    columns = "CPU us/datagram | KiB held | bytes out/in | new client ms"
    print("| attack | " + " | ".join(f"{engine}: {columns}" for engine in ENGINES) + " |")
    print("| --- |" + " ---: |" * 4 * len(ENGINES))
    for attack in ATTACKS:
        cells = []
        for engine in ENGINES:
            cost = measure(attack, engine)
            ratio = "-" if cost.amplification is None else f"{cost.amplification:.2f}"
            new_client = "kept out" if cost.new_client_ms is None else f"{cost.new_client_ms:.0f}"
            cells.append(f"{cost.cpu_us:.0f} | {cost.held_kib:.2f} | {ratio} | {new_client}")
        print(f"| {attack.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
