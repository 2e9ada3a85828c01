"""A datagram is accepted by its owner, handed over once, answered with a reset when its owner ended, or dropped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.engine_driver import NODE_ID, SERVER, Train, World
from tests.support.our_client import OurClient
from velocity_edge.client.connection import STATELESS_RESET
from velocity_edge.quic import handover
from velocity_edge.quic.engine_keys import engine_keys
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.reset import reset_token

Make = Callable[..., World]
PEER = (b"\xc0\x00\x02\x63", 4000)


def short(cid: bytes, length: int = 100) -> bytes:
    """A short-header packet that cannot be decrypted."""
    return bytes([0x43]) + cid + bytes(length - 1 - len(cid))


def test_the_ids_of_a_connection_name_the_worker(world: Make) -> None:
    w = world(worker_id=0x1234, live=frozenset((0x1234,)))
    client = w.ready()
    w.run(seconds=1)
    ids = [client.quic._peer_cid.cid, *(spare.cid for spare in client.quic._peer_cid_available)]
    # ngtcp2 issues as many as the peer can hold, 8 at most; the portable engine max_active_cids.
    assert Limits().max_active_cids <= len(ids) <= 8
    for cid in ids:
        owner = w.codec.open(cid)
        assert owner is not None
        assert (owner.node_id, owner.worker_id) == (NODE_ID, 0x1234)


def test_the_reset_tokens_are_those_of_the_key_table(world: Make) -> None:
    w = world()
    client = w.ready()
    w.run(seconds=1)
    reset_keys = engine_keys(w.table).reset_keys
    for peer_id in (client.quic._peer_cid, *client.quic._peer_cid_available):
        assert peer_id.stateless_reset_token == reset_token(reset_keys, peer_id.cid)


def test_a_stray_reaches_its_live_owner_with_time_and_addresses(world: Make) -> None:
    w = world(live=frozenset((7, 8)))
    datagram = short(w.codec.issue(NODE_ID, 8))
    w.give(Train(datagram, len(datagram), PEER, SERVER, 2, tos=0xB8))
    [(owner, packet)] = w.strays
    assert owner == 8
    train = handover.decode(packet)
    assert (bytes(train.data), train.peer, train.local) == (datagram, PEER, SERVER)
    assert (train.listener, train.tos, train.received_ns) == (2, 0xB8, w.now_ns)
    assert w.sent == []
    assert w.verdicts() == {"handed_over": 1}


def test_an_initial_that_carries_the_id_of_another_live_worker_is_a_stray(world: Make) -> None:
    w = world(live=frozenset((7, 8)))
    cid = w.codec.issue(NODE_ID, 8)
    datagram = bytes([0xC3, 0, 0, 0, 1, 20]) + cid + bytes([0, 0, 0x44, 0x96]) + bytes(1200)
    w.inject(PEER, datagram)
    assert [owner for owner, _ in w.strays] == [8]
    assert w.hooks.initials == []


def test_each_datagram_of_a_train_is_decided_alone(world: Make) -> None:
    """GRO joins by address and port; the kernel steered the train by its first datagram."""
    w = world(live=frozenset((7, 8, 9)))
    mine, gone = short(w.codec.issue(NODE_ID, 7)), short(w.codec.issue(NODE_ID, 99))
    others = [short(w.codec.issue(NODE_ID, worker)) for worker in (8, 9, 8)]
    data = mine + others[0] + gone + others[1] + others[2] + b"\x43short"
    w.give(Train(data, 100, PEER, SERVER, 0))
    assert [owner for owner, _ in w.strays] == [8, 9, 8]
    assert [bytes(handover.decode(packet).data) for _, packet in w.strays] == others
    assert w.verdicts() == {"handed_over": 3, "reset": 2, "dropped_malformed": 1}


def test_a_datagram_is_handed_over_only_once(world: Make) -> None:
    w = world(live=frozenset((7, 8)))
    w.inject(PEER, short(w.codec.issue(NODE_ID, 8)), received_ns=w.now_ns)
    w.inject(PEER, short(w.codec.issue(NODE_ID, 99)), received_ns=w.now_ns)
    assert w.strays == []
    assert w.sent == []
    assert w.verdicts() == {"dropped_forwarded": 2}
    assert w.counters()["datagrams_injected"] == 2


def test_a_connection_works_by_hand_over_alone(world: Make) -> None:
    """Two workers; every datagram of the client reaches the wrong one."""
    owner = world(worker_id=7, live=frozenset((7, 8)))
    client = owner.ready()
    other = world(worker_id=8, live=frozenset((7, 8)))
    owner.to_server = lambda address, datagram: _through(other, owner, address, datagram)  # type: ignore[method-assign]
    response = client.fetch("/bytes/100000")
    assert len(response.body) == 100_000
    assert owner.counters()["datagrams_injected"] > 3
    assert other.counters()["verdict_handed_over"] == other.counters()["datagrams_received"]


def _through(other: World, owner: World, address: tuple[bytes, int], datagram: bytes) -> None:
    other.inject(address, datagram)
    for _, packet in other.strays:
        train = handover.decode(packet)
        owner._cross(lambda train=train: owner.give(train))
    other.strays.clear()


def test_the_id_of_a_worker_that_ended_gets_a_valid_reset(world: Make) -> None:
    w = world(worker_id=7)
    client = OurClient.connected(w)
    client.fetch("/bytes/10")
    successor = world(worker_id=12, live=frozenset((12,)))
    client.world = successor
    successor.attach(client.address, client)
    successor.now_ns = w.now_ns
    client.request("GET", "/bytes/10")
    successor.run(lambda: client.terminated is not None, seconds=5)
    assert client.terminated.reason_phrase == STATELESS_RESET
    assert successor.verdicts()["reset"] >= 1


def test_no_reset_for_an_id_of_a_live_worker(world: Make) -> None:
    w = world(live=frozenset((7, 8)))
    for _ in range(50):
        w.inject(PEER, short(w.codec.issue(NODE_ID, 8)))
    assert w.sent == []


def test_the_id_of_another_node_gets_no_reset(world: Make) -> None:
    w = world()
    w.inject(PEER, short(w.codec.issue(NODE_ID + 1, 7)))
    w.inject(PEER, short(w.codec.issue(NODE_ID + 1, 99)))
    assert w.sent == []
    assert w.verdicts() == {"dropped_unknown_cid": 2}


@pytest.mark.parametrize("length", [42, 43, 44, 60, 1200])
def test_a_reset_is_shorter_than_what_it_answers_and_looks_like_a_packet(world: Make, length: int) -> None:
    w = world()
    cid = w.codec.issue(NODE_ID, 99)
    w.inject(PEER, short(cid, length))
    [answer] = w.sent
    assert 41 <= len(answer.data) < length
    assert len(answer.data) <= 43
    assert answer.data[0] & 0xC0 == 0x40
    assert bytes(answer.data[-16:]) == reset_token(engine_keys(w.table).reset_keys, cid)
    assert (answer.peer, answer.local) == (PEER, SERVER)


@pytest.mark.parametrize("length", [21, 30, 41])
def test_a_datagram_too_short_for_a_packet_gets_no_reset(world: Make, length: int) -> None:
    w = world()
    w.inject(PEER, short(w.codec.issue(NODE_ID, 99), length))
    assert w.sent == []


def test_resets_are_limited_per_second(world: Make) -> None:
    w = world(limits=Limits(max_resets_per_s=10))
    for _ in range(50):
        w.inject(PEER, short(w.codec.issue(NODE_ID, 99)))
    assert len(w.sent) == 10
    assert w.verdicts() == {"reset": 10, "dropped_reset_limit": 40}
    w.now_ns += 1_100_000_000
    w.inject(PEER, short(w.codec.issue(NODE_ID, 99)))
    assert w.verdicts()["reset"] == 11


def test_version_negotiation_is_limited_and_never_for_small_datagrams(world: Make) -> None:
    w = world(limits=Limits(max_version_negotiations_per_s=10))
    asked = bytes([0xC0]) + (0x1A2A3A4A).to_bytes(4, "big") + bytes([8]) + b"destinat" + bytes([6]) + b"source"
    for _ in range(50):
        w.inject(PEER, asked + bytes(1200 - len(asked)))
    w.inject(PEER, asked + bytes(1199 - len(asked)))
    assert w.verdicts() == {"version_negotiated": 10, "dropped_version": 41}
    answer = bytes(w.sent[0].data)
    assert answer[1:5] == bytes(4)
    assert answer[5:] == bytes([6]) + b"source" + bytes([8]) + b"destinat" + answer[-4 * (len(answer[21:]) // 4) :]
    assert (1).to_bytes(4, "big") in [answer[i : i + 4] for i in range(21, len(answer), 4)]


@pytest.mark.parametrize(
    ("datagram", "verdict"),
    [
        (b"", "dropped_malformed"),
        (b"\x00", "dropped_malformed"),
        (b"\x43" + bytes(10), "dropped_malformed"),
        (b"\x03" + bytes(60), "dropped_malformed"),
        (b"\x43" + bytes(60), "dropped_unknown_cid"),
        (b"\xc0\x00\x00\x00", "dropped_malformed"),
        (b"\xc0\x00\x00\x00\x00\x08abcdefgh\x00\x00\x00\x00\x01", "dropped_malformed"),
        (b"\xc0\x00\x00\x00\x01\xff" + bytes(100), "dropped_malformed"),
        (b"\xc0\x00\x00\x00\x01\x15" + bytes(1300), "dropped_malformed"),
        (b"\x83\x00\x00\x00\x01\x08" + bytes(1300), "dropped_malformed"),
        (b"\xc3\x00\x00\x00\x01\x08abcdefgh\x00\x00\x44\x96" + bytes(1100), "dropped_small_initial"),
        (b"\xc3\x00\x00\x00\x01\x07abcdefg\x00\x00\x44\x96" + bytes(1250), "dropped_malformed"),
        (b"\xc3\x00\x00\x00\x01\x08abcdefgh\x00\x00\x7f\xff" + bytes(1250), "dropped_malformed"),
        (b"\xc3\x00\x00\x00\x01\x08abcdefgh\x00\x7f\xff" + bytes(1250), "dropped_malformed"),
        # A packet of 19 bytes has no sample of header protection (RFC 9001 section 5.4.2), whatever follows it.
        (b"\xc3\x00\x00\x00\x01\x08abcdefgh\x00\x00\x13" + bytes(1250), "dropped_malformed"),
        (b"\xc3\x00\x00\x00\x01\x08abcdefgh\x00\x00\x10" + bytes(1250), "dropped_malformed"),
        (b"\xd3\x00\x00\x00\x01\x08abcdefgh\x00\x44\x96" + bytes(1250), "dropped_unknown_cid"),
        (b"\xe3\x00\x00\x00\x01\x08abcdefgh\x00\x44\x96" + bytes(1250), "dropped_unknown_cid"),
        (b"\xf3\x00\x00\x00\x01\x08abcdefgh\x00" + bytes(1250), "dropped_malformed"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:18].hex() or "empty",
)
def test_a_datagram_that_opens_nothing_is_dropped_under_its_verdict(world: Make, datagram: bytes, verdict: str) -> None:
    w = world()
    w.inject(PEER, datagram)
    assert w.verdicts() == {verdict: 1}
    assert w.sent == []
    assert w.hooks.initials == []


def test_a_migrating_client_is_followed(world: Make) -> None:
    w = world()
    client = w.ready()
    client.fetch("/bytes/10")
    w.move(client.address, (b"\xcb\x00\x71\x05", 7777))
    response = client.fetch("/bytes/50000", seconds=20)
    assert len(response.body) == 50_000
    assert w.counters()["migrations"] == 1
    assert w.sent[-1].peer == (b"\xcb\x00\x71\x05", 7777)


def test_a_client_may_change_its_connection_id(world: Make) -> None:
    w = world()
    client = w.ready()
    w.run(seconds=1)
    for _ in range(20):
        client.quic.change_connection_id()
        assert client.fetch("/bytes/10").status == 200
    assert w.counters()["connections_opened"] == 1


def test_answers_leave_by_the_listener_and_address_of_the_request(world: Make) -> None:
    w = world()
    client = w.connect()
    local = (b"\x0a\x00\x00\x02", 8443)
    w.to_server = lambda address, datagram: w._cross(  # type: ignore[method-assign]
        lambda: w.give(Train(datagram, len(datagram), address, local, 3))
    )
    w.run(lambda: client.ready)
    assert {(train.local, train.listener) for train in w.sent} == {(local, 3)}
