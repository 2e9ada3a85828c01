"""Tier A sends each datagram where velocity_edge/wire/cid.py says, on a real reuseport group and without rights."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpf import classic
from tests.support.packets import HANDSHAKE, INITIAL, long, random_dcid, short
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.cid_codec import CidCodec

SLOTS = 6


class Group:
    """A reuseport group on loopback, bound in the order of the slots, and a socket that sends to it."""

    def __init__(self, family: int) -> None:
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self.sockets: list[socket.socket] = []
        port = 0
        for _ in range(SLOTS):
            member = socket.socket(family, socket.SOCK_DGRAM)
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            member.bind((host, port))
            member.setblocking(False)
            port = member.getsockname()[1]
            self.sockets.append(member)
        self.client = socket.socket(family, socket.SOCK_DGRAM)
        self.client.connect((host, port))

    def slot_of(self, datagram: bytes) -> int:
        """Send, and return the slot that received it. On loopback a datagram is in the queue when `send` returns."""
        self.client.send(datagram)
        for slot, member in enumerate(self.sockets):
            try:
                assert member.recv(65536) == datagram
            except BlockingIOError:
                continue
            return slot
        raise AssertionError("nobody got it")

    def close(self) -> None:
        for each in (*self.sockets, self.client):
            each.close()


@pytest.fixture(scope="module", params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    made = Group(request.param)
    yield made
    made.close()


keys = st.binary(min_size=16, max_size=16)
configs = st.lists(
    st.builds(CidConfig, config_id=st.integers(0, 6), aes_key=st.just(bytes(16)), mask_key=keys),
    min_size=1,
    max_size=7,
    unique_by=lambda config: config.config_id,
)
workers = st.dictionaries(st.integers(0, 65535), st.integers(0, SLOTS - 1), min_size=1, max_size=40)
slow_fixture = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def keys_of(configs: list[CidConfig]) -> dict[int, bytes]:
    return {config.config_id: config.mask_key for config in configs}


@slow_fixture
@given(configs=configs, workers=workers, data=st.data())
def test_known_ids_reach_their_slot(
    group: Group, configs: list[CidConfig], workers: dict[int, int], data: st.DataObject
) -> None:
    classic.attach(group.sockets[0], classic.program(keys_of(configs), workers, []))
    for _ in range(4):
        codec = CidCodec(data.draw(st.permutations(configs)))
        worker_id = data.draw(st.sampled_from(sorted(workers)))
        cid = codec.issue(7, worker_id)
        assert group.slot_of(short(cid)) == workers[worker_id]
        assert group.slot_of(long(HANDSHAKE, cid, length=200)) == workers[worker_id]
        assert group.slot_of(long(INITIAL, cid)) == workers[worker_id]


@slow_fixture
@given(
    configs=configs, accepting=st.sets(st.integers(0, SLOTS - 1), min_size=1), first=st.integers(0, 255), data=st.data()
)
def test_unknown_ids_reach_an_accepting_slot(
    group: Group, configs: list[CidConfig], accepting: set[int], first: int, data: st.DataObject
) -> None:
    """Also IDs of ours with one bit changed, IDs of worker ids that are not in use, and datagrams that are not QUIC."""
    # Worker ids above the slots, so that a slot never equals a worker id by accident.
    workers = {1000 + slot: slot for slot in range(SLOTS)}
    code = classic.program(
        keys_of(configs),
        workers,
        [1000 + slot for slot in sorted(accepting)],
        seed=data.draw(st.integers(0, 2**64 - 1)),
    )
    classic.attach(group.sockets[0], code)
    codec = CidCodec(configs)
    changed = bytearray(codec.issue(7, 1000))
    changed[data.draw(st.integers(0, 19))] ^= 1 << data.draw(st.integers(0, 7))
    for datagram in (
        long(INITIAL, random_dcid(8)),
        long(INITIAL, random_dcid(20)),
        long(INITIAL, codec.issue(7, 999)),
        short(codec.issue(7, 65535)),
        bytes([first]) + data.draw(st.binary(min_size=1, max_size=64)),
    ):
        assert group.slot_of(datagram) in accepting
    decoded = codec.worker_of(bytes(changed))
    expected = {workers[decoded]} if decoded in workers else accepting
    assert group.slot_of(short(bytes(changed))) in expected


def test_new_connections_are_spread_and_first_flights_stay_together(group: Group) -> None:
    """Every accepting slot gets a share; all datagrams of one first flight go to the same slot."""
    config = CidConfig(0, bytes(16), bytes(range(16)))
    workers = {10 + slot: slot for slot in range(SLOTS)}
    accepting = [10, 12, 15]
    classic.attach(group.sockets[0], classic.program(keys_of([config]), workers, accepting, seed=0x1234567890ABCDEF))
    counts = dict.fromkeys((0, 2, 5), 0)
    rng = random.Random(1)
    for _ in range(900):
        dcid = rng.randbytes(8)
        slot = group.slot_of(long(INITIAL, dcid))
        assert group.slot_of(long(INITIAL, dcid, length=1350)) == slot
        counts[slot] += 1
    assert sum(counts.values()) == 900
    assert min(counts.values()) > 200


def test_a_program_that_is_too_large_is_refused() -> None:
    with pytest.raises(classic.BpfError, match=r"^cannot steer with classic BPF: .* instructions of at most 4096"):
        classic.program({0: bytes(16)}, dict.fromkeys(range(2000), 0), [0])


def test_size_with_many_workers() -> None:
    """The program of a node with 64 cores, two generations each and two configurations is below the limit."""
    workers = {worker_id: worker_id for worker_id in range(128)}
    code = classic.program({0: bytes(16), 1: bytes(16)}, workers, list(range(64)))
    assert len(code) // 8 < 2000
