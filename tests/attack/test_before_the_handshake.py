"""A stranger who has proved nothing gets little memory, little work and at most three times his bytes."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable

import pytest

from tests.support import tls as tls_support
from tests.support.attacker import Memory, client_hello, crypto_frame, initial
from tests.support.engine_driver import SERVER, Train, World
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
KIB = 1024


def stranger(number: int) -> tuple[bytes, int]:
    return (number.to_bytes(4, "big"), 1024 + number % 60_000)


@pytest.mark.parametrize("offset", [16_384, 65_000, 524_288 - 8, (1 << 40)])
def test_crypto_data_far_ahead_is_refused_and_not_made_room_for(world: Make, offset: int) -> None:
    """Stock aioquic: one spoofed Initial of 1200 bytes, 665 KiB."""
    w = world(limits=Limits(retry_threshold=10_000, max_half_open=10_000))
    datagrams = [initial(crypto_frame(offset, b"abcd")) for _ in range(200)]
    w.inject(stranger(1), initial(crypto_frame(offset, b"abcd")))
    with Memory(w) as memory:
        for number, datagram in enumerate(datagrams):
            w.inject(stranger(number), datagram)
        w.app.closed.clear()
        w.hooks.initials.clear()
        w.sent.clear()
        # What remains are farewells and counters; the refused data is not among it.
        assert memory.grown() < 200 * 8 * KIB
    assert w.half_open() == len(w.engine.connections()) == 0


def test_a_tls_message_of_sixteen_megabytes_is_refused_by_its_length(world: Make) -> None:
    w = world()
    w.inject(stranger(1), initial(crypto_frame(0, b"\x01\xff\xff\xff" + bytes(1000))))
    [closed] = w.app.closed
    assert closed.error_code in (0x100 + 50, 0x0D)


def test_a_hello_that_never_ends_is_held_to_its_limit(world: Make) -> None:
    w = world()
    dcid = os.urandom(8)
    peer = stranger(1)
    for part in range(40):
        w.inject(peer, initial(crypto_frame(part * 1000, b"\x01\x00\xff\xff" + bytes(996)), dcid=dcid))
        if w.app.closed:
            break
    assert w.app.closed
    assert part <= 17


def test_a_flood_of_first_flights_meets_retry_and_then_a_wall(world: Make) -> None:
    limits = Limits(retry_threshold=50, max_half_open=80)
    w = world(limits=limits)
    for number in range(300):
        w.inject(stranger(number), client_hello(w))
    verdicts = w.verdicts()
    assert verdicts["accepted"] == 50
    assert verdicts["retried"] == 250
    assert w.half_open() == len(w.engine.connections()) == 50
    w.run(seconds=limits.handshake_timeout_s + 1)
    assert w.half_open() == len(w.engine.connections()) == 0
    assert w.counters()["handshakes_timed_out"] == 50


def test_half_open_connections_have_a_hard_bound(world: Make) -> None:
    w = world(limits=Limits(retry_threshold=1000, max_half_open=40))
    for number in range(100):
        w.inject(stranger(number), client_hello(w))
    assert w.half_open() == 40
    assert w.verdicts()["dropped_half_open"] == 60


def test_connections_have_a_hard_bound(world: Make) -> None:
    w = world(limits=Limits(max_connections=5))
    clients = [w.connect() for _ in range(8)]
    w.run(seconds=3)
    assert sum(client.ready for client in clients) == 5
    assert len(w.engine.connections()) == 5
    assert w.verdicts()["dropped_connections"] >= 3


@pytest.mark.parametrize("kind", ["p256", "mldsa65", "mldsa87"])
def test_a_spoofed_address_gets_at_most_three_times_the_bytes(world: Make, kind: str) -> None:
    w = world(policy=tls_support.policy(tls_support.chain(kind)))
    hello = client_hello(w)
    w.inject(stranger(1), hello)
    w.run(seconds=15)
    assert sum(len(train.data) for train in w.sent) <= 3 * len(hello)


def test_a_half_open_connection_costs_less_than_96_kib(world: Make) -> None:
    w = world(limits=Limits(retry_threshold=10_000, max_half_open=10_000))
    hellos = [client_hello(w) for _ in range(500)]
    for hello in hellos[:100]:
        w.inject(stranger(hash(hello) & 0xFFFFFF), hello)
    with Memory(w) as memory:
        for hello in hellos[100:]:
            w.inject(stranger(hash(hello) & 0xFFFFFF), hello)
        w.sent.clear()
        assert w.half_open() == 500
        assert memory.grown() / 400 < 96 * KIB


def test_noise_makes_no_state_no_answers_and_no_log(world: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Random bytes, and sound packets with random bytes changed."""
    w = world()
    dice = random.Random(11)
    sound = [client_hello(w) for _ in range(5)]
    with caplog.at_level(logging.INFO):
        for _ in range(3000):
            if dice.random() < 0.3:
                datagram = dice.randbytes(dice.choice([0, 1, 6, 7, 20, 21, 41, 100, 1199, 1200, 1500]))
            else:
                mutable = bytearray(dice.choice(sound))
                for _ in range(dice.randrange(1, 6)):
                    mutable[dice.randrange(len(mutable) if dice.random() < 0.3 else 40)] = dice.randrange(256)
                datagram = bytes(mutable[: dice.choice([len(mutable), len(mutable), dice.randrange(1, len(mutable))])])
            w.give(Train(datagram, max(1, len(datagram)), stranger(dice.randrange(9999)), SERVER, 0))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    # A changed source id or version is a sound Initial of somebody else, so some of them do open a connection.
    assert len(w.engine.connections()) < 100


def test_an_initial_with_one_of_our_ids_opens_nothing(world: Make) -> None:
    """Replayed from a connection that is gone: a decodable id without a Retry token."""
    w = world()
    cid = w.codec.issue(0x0A0B0C0D, 7)
    w.inject(stranger(1), initial(crypto_frame(0, b"\x01\x00\x00\x10" + bytes(16)), dcid=cid))
    assert w.verdicts() == {"dropped_foreign_id": 1}
    assert w.sent == []
