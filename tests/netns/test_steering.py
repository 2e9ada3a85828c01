"""Over a real network, in every tier, each datagram reaches the socket of its worker and is counted.

Four workers in slots 0-3; two of them accept, two drain. 200,000 datagrams per run.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.steering.choose import Steering, Tier, open_steering
from supervisor.steering.kernel import KernelSteering
from tests.support.netns import Network, inside, ip, network
from tests.support.packets import INITIAL as INITIAL_TYPE
from tests.support.packets import long, random_dcid, short
from tests.support.traffic import CODEC, CONFIG, INITIAL, PORT, Sender, clients, group, receiving
from velocity_edge.wire.messages import Listener

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]

WORKERS = {0x0101: 0, 0x0102: 1, 0xFFFF: 2, 0x0000: 3}  # worker id -> slot
ACCEPTING = [0x0102, 0x0000]
DATAGRAMS = 200_000
PER_SECOND = 100_000
MODES = {"A": "socket-classic", "B": "socket", "C": "xdp", "D": "xdp-cpumap"}


@pytest.fixture(scope="module")
def wire() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


class Node:
    """A socket group and its steering, in the server's namespace."""

    def __init__(self, wire: Network, family: int, mode: str, cache_dir: Path, *, host: str | None = None) -> None:
        self.wire = wire
        self.family = family
        self.members = group(wire, family, len(WORKERS), host=host)
        listener = Listener(self.members[0].getsockname()[0], PORT)
        with inside(wire.server):
            self.steering: Steering = open_steering(
                mode=mode,
                instance=f"test-{wire.server}",
                listeners=[listener],
                sockets=[self.members],
                interfaces=[wire.veth] if mode.startswith("xdp") and host is None else [],
                cache_dir=cache_dir,
                cid_configs=[CONFIG],
                adopt=False,
            )
        for worker_id, slot in WORKERS.items():
            self.steering.lend(worker_id, slot, slot % 2)
        self.steering.accept(ACCEPTING)

    def close(self) -> None:
        self.steering.detach()
        for member in self.members:
            member.close()

    def slot_of(self, client: socket.socket, datagram: bytes) -> int | None:
        """Send; return who receives it, or None when it does not arrive (a CPUMAP thread may wait for a core)."""
        client.send(datagram)
        readable, _, _ = select.select(self.members, [], [], 5.0)
        for member in readable:
            assert member.recv(65536) == datagram
            return self.members.index(member)
        return None


@pytest.fixture(params=[(tier, family) for tier in MODES for family in (4, 6)], ids=lambda p: f"{p[0]}-ipv{p[1]}")
def node(request: pytest.FixtureRequest, wire: Network, cache_dir: Path) -> Iterator[Node]:
    tier, family = request.param
    made = Node(wire, family, MODES[tier], cache_dir)
    assert made.steering.tier is Tier[tier]
    yield made
    made.close()


def test_every_datagram_reaches_its_worker(node: Node) -> None:
    """Known ids reach their slot, new connections an accepting one; nothing is lost; every stage counts all, once."""
    senders = clients(node.wire, node.family, 16)
    before = node.steering.counters()
    with receiving(node.members) as receiver:
        sent = Sender(senders, list(WORKERS), DATAGRAMS, PER_SECOND, initial_percent=10).finish()
        got = receiver.stop(DATAGRAMS)
    after = node.steering.counters()
    for client in senders:
        client.close()
    assert sum(sent.values()) == DATAGRAMS
    accepting = {WORKERS[worker_id] for worker_id in ACCEPTING}
    for slot, counts in enumerate(got):
        owners = {worker_id for kind, worker_id in counts if kind != INITIAL}
        assert owners <= {worker_id for worker_id, where in WORKERS.items() if where == slot}, f"slot {slot}"
        assert (counts[INITIAL, 0] > 0) == (slot in accepting)
    assert sum(got, Counter()) == sent
    moved = {stage: _difference(before[stage], after[stage]) for stage in after}
    new = sent[INITIAL, 0]
    known = DATAGRAMS - new
    if node.steering.tier is Tier.A:
        assert moved == {}
        return
    # Without a connection each Initial has a different id: none finds a pin.
    assert moved["select"] == {"selected_known_worker": known, "selected_new": new}
    if node.steering.tier is Tier.B:
        return
    ours = {name: count for name, count in moved["xdp"].items() if name != "passed_not_ours"}
    assert ours == {"passed_known_worker": known, "passed_initial": new}
    if node.steering.tier is Tier.D:
        assert moved["cpumap"] == {"moved": DATAGRAMS, "arrived": DATAGRAMS}


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: count - before[name] for name, count in after.items() if count != before[name]}


def test_fragments_and_ip_options_reach_their_worker(node: Node) -> None:
    """IP options, and headers outside the linear part (sent without copying). Fragments do not pass a shield."""
    (client,) = clients(node.wire, node.family, 1)
    kernel_tier = node.steering.tier is not Tier.A
    shielded = "xdp" in node.steering.counters()
    before = node.steering.counters().get("xdp", {})
    for worker_id, slot in WORKERS.items():
        fragmented = short(CODEC.issue(1, worker_id), 4000)  # in three
        if shielded:
            client.send(fragmented)
        else:
            assert node.slot_of(client, fragmented) == slot
        assert node.slot_of(client, short(CODEC.issue(1, worker_id), 30)) == slot
    moved = _difference(before, node.steering.counters().get("xdp", {}))
    moved.pop("passed_not_ours", None)
    of_each = {"dropped_fragment": 4, "passed_fragment": 8, "passed_known_worker": 4}
    assert moved == (of_each if shielded else {})
    before = node.steering.counters().get("select", {})
    client.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
    for worker_id, slot in WORKERS.items():
        datagram = short(CODEC.issue(1, worker_id), 1200)
        client.sendmsg([datagram], [], 0x4000000)  # MSG_ZEROCOPY
        assert _receive(node.members[slot]) == datagram
        datagram = long(INITIAL_TYPE, CODEC.issue(1, worker_id))
        client.sendmsg([datagram], [], 0x4000000)
        assert _receive(node.members[slot]) == datagram
    after = node.steering.counters().get("select", {})
    if kernel_tier:
        assert _difference(before, after) == {"selected_known_worker": 2 * len(WORKERS)}
    if node.family == 4:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x94\x04\0\0")
        for worker_id, slot in WORKERS.items():
            assert node.slot_of(client, short(CODEC.issue(1, worker_id))) == slot
    client.close()


@pytest.mark.parametrize(("mode", "attached"), [("xdp", "native"), ("xdp-cpumap", "generic")])
def test_trains_and_jumbo_frames_reach_their_worker(wire: Network, cache_dir: Path, mode: str, attached: str) -> None:
    """Super-packets of 16 segments (UDP_SEGMENT) and frames of 9000 bytes, past the shield in both modes.

    One train is one packet for a program that sees it whole: counted once, steered by its first datagram.
    """
    for namespace in (wire.client, wire.server):
        ip(f"-n {namespace} link set veth mtu 9000")
    node = Node(wire, 4, mode, cache_dir)
    assert node.steering.interfaces == {"veth": attached}
    (client,) = clients(wire, 4, 1)
    for worker_id, slot in WORKERS.items():
        assert node.slot_of(client, short(CODEC.issue(1, worker_id), 8900)) == slot
    client.setsockopt(socket.IPPROTO_UDP, 103, 1200)  # UDP_SEGMENT
    segments = [short(CODEC.issue(1, worker_id), 1200) for worker_id in [0xFFFF] * 16]
    before = node.steering.counters()
    client.send(b"".join(segments))
    got = [_receive(node.members[WORKERS[0xFFFF]]) for _ in segments]
    assert sorted(got) == sorted(segments)
    after = node.steering.counters()
    assert 1 <= after["xdp"]["passed_known_worker"] - before["xdp"]["passed_known_worker"] <= 16
    assert after["select"]["selected_known_worker"] > before["select"]["selected_known_worker"]
    client.close()
    node.close()
    for namespace in (wire.client, wire.server):
        ip(f"-n {namespace} link set veth mtu 1500")


def _receive(member: socket.socket) -> bytes:
    member.settimeout(5)
    return member.recv(65536)


def test_both_datagrams_of_a_client_hello_reach_one_worker(node: Node) -> None:
    """A post-quantum ClientHello takes two datagrams; the accepting set changes between them. Tier A separates them.

    The control: with the pin map emptied in between, most second datagrams go to another worker.
    """
    senders = clients(node.wire, node.family, 50)
    together = _hellos(node, senders, forget_pins=False)
    apart = _hellos(node, senders, forget_pins=True)
    for client in senders:
        client.close()
    assert apart == 0
    assert together == (0 if node.steering.tier is Tier.A else len(senders))


def _hellos(node: Node, senders: list[socket.socket], *, forget_pins: bool) -> int:
    """Return how many handshakes had both datagrams in one slot. The two accepting sets have nothing in common."""
    node.steering.accept([0x0102, 0x0000])
    ids = [random_dcid() for _ in senders]
    first = [node.slot_of(client, long(INITIAL_TYPE, dcid)) for client, dcid in zip(senders, ids, strict=True)]
    assert set(first) == {1, 3}
    node.steering.accept([0x0101, 0xFFFF])
    if forget_pins and isinstance(node.steering, KernelSteering):
        node.steering.forget_pins()
    second = [node.slot_of(client, long(INITIAL_TYPE, dcid)) for client, dcid in zip(senders, ids, strict=True)]
    others = [node.slot_of(client, long(INITIAL_TYPE, random_dcid())) for client in senders]
    assert set(others) == {0, 2}
    return sum(a == b for a, b in zip(first, second, strict=True))
