"""With real packets: what the stack would deliver to a listener does not pass the shield in any encapsulation.

Each kind of attack is sent without the shield first, to see which frames the stack delivers (a frame that it drops
itself proves nothing), and then 500 times to the shield, while an honest client continues.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import pytest

from supervisor.steering.choose import Steering, open_steering
from tests.support.headers import (
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTING,
    UDP,
    extension,
    fragment,
    with_checksum,
)
from tests.support.netns import CLIENT_MAC, SERVER_MAC, Network, inside, network
from tests.support.packets import INITIAL, RETRY, V2, ipv4, ipv6, long, random_dcid, short, udp
from tests.support.traffic import CODEC, CONFIG, PORT, clients, group
from velocity_edge.wire.messages import Listener

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]

WORKER = 0x0101
ATTACKS = 500
ATTACKER = {4: "10.9.0.77", 6: "fd09::77"}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def wire() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


# --- what is sent -----------------------------------------------------------------------------------------------------


def frame(packet: bytes, tags: int = 0) -> bytes:
    """An Ethernet frame to the server, with *tags* priority tags."""
    head = bytes.fromhex((SERVER_MAC + CLIENT_MAC).replace(":", "")) + bytes.fromhex("81000000") * tags
    return head + (b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00") + packet


def datagram(family: int, name: bytes) -> bytes:
    """An Initial that opens a connection; its 8 bytes of source id identify it."""
    whole = udp(long(INITIAL, random_dcid(), scid=name), destination=PORT)
    return with_checksum(whole, ATTACKER[family], Network.server_address[family])


def four(payload: bytes, *, fragment: int = 0x4000, options: bytes = b"", number: int = 1) -> bytes:
    packet = bytearray(
        ipv4(
            payload,
            source=ATTACKER[4],
            destination=Network.server_address[4],
            fragment=fragment,
            options=options,
        )
    )
    # Another identification, and the checksum that goes with it (RFC 1624).
    old, (checksum,) = 1, struct.unpack_from("!H", packet, 10)
    total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + number
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", packet, 4, number)
    struct.pack_into("!H", packet, 10, ~total & 0xFFFF)
    return bytes(packet)


def six(*parts: bytes, next_header: int, length: int | None = None) -> bytes:
    return ipv6(
        b"".join(parts),
        source=ATTACKER[6],
        destination=Network.server_address[6],
        next_header=next_header,
        length=length,
    )


def behind(chain: tuple[int, ...], payload: bytes) -> bytes:
    head = b""
    for number, following in itertools.pairwise([*chain, UDP]):
        if number == FRAGMENT:
            head += fragment(following)
        else:
            head += extension(following, routing_type=253 if number == ROUTING else None)  # RFC 4727: an experiment
    return six(head, payload, next_header=chain[0])


#: The frames of one attack, from its name: all that it takes for one datagram.
Attack = Callable[[bytes], list[bytes]]


def attacks() -> tuple[dict[str, Attack], dict[str, Attack]]:
    """Those that the stack delivers, and those that it does not (any more: RFC 5722, RFC 7112, RFC 8200)."""

    def pieces4(name: bytes, *cuts: int, options: bytes = b"", backwards: bool = False) -> list[bytes]:
        whole, number = datagram(4, name), next(_numbers) & 0xFFFF
        ends = [*cuts, len(whole)]
        found = [
            frame(
                four(
                    whole[start:end],
                    fragment=start // 8 | (0x2000 if end < len(whole) else 0),
                    options=options,
                    number=number,
                )
            )
            for start, end in itertools.pairwise([0, *ends])
        ]
        return found[::-1] if backwards else found

    def pieces6(
        name: bytes, *cuts: int, before: bytes = b"", outer: int = FRAGMENT, inner: bytes = b"", first: int = UDP
    ) -> list[bytes]:
        """*before* is in front of the fragment header, *inner* (its first header: *first*) is fragmented, too."""
        whole, number = inner + datagram(6, name), next(_numbers)
        return [
            frame(
                six(
                    before,
                    fragment(first, offset=start, more=end < len(whole), number=number),
                    whole[start:end],
                    next_header=outer,
                )
            )
            for start, end in itertools.pairwise([0, *cuts, len(whole)])
        ]

    def rewritten(name: bytes) -> list[bytes]:
        """Port 53, and then the beginning again, with our port."""
        whole, number = datagram(4, name), next(_numbers) & 0xFFFF
        innocent = four(whole[:2] + b"\0\x35" + whole[4:16], fragment=0x2000, number=number)
        return [
            frame(innocent),
            frame(four(whole[:16], fragment=0x2000, number=number)),
            frame(four(whole[16:], fragment=2, number=number)),
        ]

    delivered: dict[str, Attack] = {
        "IPv4": lambda n: [frame(four(datagram(4, n)))],
        "IPv4 options": lambda n: [frame(four(datagram(4, n), options=b"\x01" * 40))],
        "IPv4 in two": lambda n: pieces4(n, 800),
        "IPv4 in two, backwards": lambda n: pieces4(n, 800, backwards=True),
        "IPv4 in two, options": lambda n: pieces4(n, 800, options=b"\x01" * 8),
        "IPv4 tiny first": lambda n: pieces4(n, 8),
        "IPv4 tiny first and last": lambda n: pieces4(n, 8, 1200),
        "one priority tag": lambda n: [frame(four(datagram(4, n)), 1)],
        "three priority tags": lambda n: [frame(four(datagram(4, n)), 3)],
        "eight priority tags": lambda n: [frame(four(datagram(4, n)), 8)],
        "nine priority tags": lambda n: [frame(four(datagram(4, n)), 9)],
        "IPv6": lambda n: [frame(six(datagram(6, n), next_header=UDP))],
        "IPv6 without a length": lambda n: [
            frame(six(extension(UDP), datagram(6, n), next_header=HOP_BY_HOP, length=0))
        ],
        "IPv6 four headers": lambda n: [frame(behind((DESTINATION,) * 4, datagram(6, n)))],
        "IPv6 in two": lambda n: pieces6(n, 800),
        "IPv6 tiny first": lambda n: pieces6(n, 8),
        "IPv6 in two behind options": lambda n: pieces6(n, 800, before=extension(FRAGMENT), outer=DESTINATION),
        "IPv6 in two with options": lambda n: pieces6(n, 800, inner=extension(UDP), first=DESTINATION),
    }
    refused: dict[str, Attack] = {
        "IPv4 rewritten by an overlap": rewritten,
        "IPv6 header chain in two": lambda n: pieces6(n, 8, inner=extension(UDP), first=DESTINATION),
        "IPv6 hop-by-hop second": lambda n: [frame(behind((DESTINATION, HOP_BY_HOP), datagram(6, n)))],
        "IPv6 fragments in an atomic one": lambda n: pieces6(n, 800, before=fragment(FRAGMENT)),
    }
    for chain in itertools.chain.from_iterable(
        itertools.product((ROUTING, DESTINATION, FRAGMENT), repeat=n) for n in (1, 2, 3)
    ):
        for whole in (chain, (HOP_BY_HOP, *chain)):
            if len(whole) <= 3:
                kind = delivered if whole.count(FRAGMENT) < 2 else refused
                kind["IPv6 " + "-".join(map(str, whole))] = (
                    lambda n, whole=whole: [frame(behind(whole, datagram(6, n)))]  # type: ignore[misc]
                )
    return delivered, refused


DELIVERED, REFUSED = attacks()


# --- delivery -------------------------------------------------------------------------------------------------------


class Node:
    """A worker for both families behind a shield or without one, an honest client of each, an attacker's socket."""

    def __init__(self, wire: Network, mode: str, cache_dir: Path) -> None:
        groups = [group(wire, family, 1) for family in (4, 6)]
        self.members = [members[0] for members in groups]
        with inside(wire.server):
            self.steering: Steering = open_steering(
                mode=mode,
                instance=f"test-{wire.server}",
                listeners=[Listener(each.getsockname()[0], PORT) for each in self.members],
                sockets=groups,
                interfaces=[wire.veth] if mode.startswith("xdp") else [],
                cache_dir=cache_dir,
                cid_configs=[CONFIG],
                adopt=False,
            )
        self.steering.lend(WORKER, 0, 0)
        self.steering.accept([WORKER])
        self.honest = [clients(wire, family, 1)[0] for family in (4, 6)]
        with inside(wire.client):
            self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._raw.bind((wire.veth, 0))

    def send(self, frames: list[bytes]) -> None:
        for each in frames:
            self._raw.send(each)

    def round_trip(self) -> list[bytes]:
        """Send an honest datagram on each family; return what else was queued when it arrived, by source id."""
        others = []
        for member, client in zip(self.members, self.honest, strict=True):
            proof = short(CODEC.issue(1, WORKER))
            client.send(proof)
            while True:
                readable, _, _ = select.select([member], [], [], 5.0)
                assert readable, "an honest datagram was lost"
                got = member.recv(65536)
                if got == proof:
                    break
                others.append(got[15:23])
        return others

    def close(self) -> None:
        self.steering.detach()
        for each in (*self.members, *self.honest, self._raw):
            each.close()


def test_attack_frames_are_delivered_without_the_shield(wire: Network, cache_dir: Path) -> None:
    """The control: without the shield the stack delivers all of them except the refused ones."""
    names = {f"{i:08}".encode(): name for i, name in enumerate((*DELIVERED, *REFUSED))}
    with closing(Node(wire, "socket", cache_dir)) as node:
        for marker, name in names.items():
            node.send((DELIVERED | REFUSED)[name](marker))
        got = node.round_trip() + node.round_trip()
    assert {names[marker] for marker in got} == set(DELIVERED)


@pytest.mark.parametrize("rule", ["limit", "attack", "deny"])
@pytest.mark.parametrize("mode", ["xdp", "xdp-cpumap"])
def test_attack_frames_do_not_pass_the_shield(wire: Network, cache_dir: Path, mode: str, rule: str) -> None:
    """500 of 500 of each kind are dropped, by the limiter all but one a second. All are counted, honest ones pass."""
    got: list[bytes] = []
    sent = 0
    with closing(Node(wire, mode, cache_dir)) as node:
        if rule == "deny":
            node.steering.deny([ip_network(ATTACKER[4]), ip_network(ATTACKER[6])])
        node.steering.limits(initials_per_s=int(rule == "limit"), burst=1, slip=0, attack=rule == "attack")
        start = time.monotonic()
        before = node.steering.counters()["xdp"]
        for name, attack in (DELIVERED | REFUSED).items():
            frames = attack(os.urandom(8))
            for _ in range(ATTACKS):
                node.send(frames)
            sent += ATTACKS * len(frames)
            arrived = node.round_trip()
            assert rule == "limit" or not arrived, name
            got += arrived
        after = node.steering.counters()["xdp"]
    # passed_not_ours also counts packets between the kernels.
    counted = {name: count - before[name] for name, count in after.items() if name != "passed_not_ours"}
    assert counted.pop("passed_known_worker") == 2 * len(DELIVERED | REFUSED)
    elsewhere = ATTACKS  # a third of "rewritten by an overlap" has port 53
    assert sum(counted.values()) == sent - elsewhere
    passed = counted["passed_initial"]
    assert len(got) <= passed <= (2 * (2 + time.monotonic() - start) if rule == "limit" else 0)


@pytest.mark.parametrize("mode", ["socket", "xdp", "xdp-cpumap"])
def test_unknown_versions_reach_a_worker(wire: Network, cache_dir: Path, mode: str) -> None:
    """It answers with Version Negotiation, also version 2; under 1200 bytes an answer would amplify."""
    with closing(Node(wire, mode, cache_dir)) as node:
        node.steering.limits(initials_per_s=1000, burst=100, slip=8, attack=False)
        for version in (V2, 0x1A2A3A4A, 0xFF00001D, 0xFFFFFFFF):
            for client, member in zip(node.honest, node.members, strict=True):
                for length in (1200, 1350):
                    asked = long(RETRY if length > 1200 else INITIAL, random_dcid(), version=version, length=length)
                    if mode != "socket":  # which answers with "port unreachable"
                        client.send(long(INITIAL, random_dcid(), version=version, length=1199))
                    client.send(asked)
                    member.settimeout(5)
                    assert member.recv(65536) == asked
