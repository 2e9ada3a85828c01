"""A client with an unvalidated address gets bounded memory, bounded work and at most three times its bytes."""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections.abc import Callable

import pytest

from tests.support import tls as tls_support
from tests.support.attacker import SCID, Memory, client_hello, crypto_frame, hello, hello_datagrams, initial, parameters
from tests.support.engine_driver import SERVER, StockClient, Train, World
from tests.support.our_client import OurClient
from velocity_edge.quic.half_open import FLIGHT_CPU_US
from velocity_edge.quic.limits import Limits
from velocity_edge.tls import kex

Make = Callable[..., World]
KIB = 1024


def spoofed_address(number: int) -> tuple[bytes, int]:
    return (number.to_bytes(4, "big"), 1024 + number % 60_000)


@pytest.mark.parametrize("offset", [16_384, 65_000, 524_288 - 8, (1 << 40)])
def test_crypto_data_at_a_far_offset_is_refused_without_allocation(world: Make, offset: int) -> None:
    """Unmodified aioquic: one spoofed Initial of 1200 bytes allocates 665 KiB."""
    w = world(limits=Limits(retry_threshold=10_000, max_half_open=10_000))
    datagrams = [initial(crypto_frame(offset, b"abcd")) for _ in range(200)]
    w.inject(spoofed_address(1), initial(crypto_frame(offset, b"abcd")))
    with Memory(w) as memory:
        for number, datagram in enumerate(datagrams):
            w.inject(spoofed_address(number), datagram)
        w.app.closed.clear()
        w.hooks.initials.clear()
        w.sent.clear()
        # Closing packets and counters remain; the refused data does not.
        assert memory.grown() < 200 * 8 * KIB
    assert w.half_open() == len(w.engine.connections()) == 0


def test_tls_message_of_16_mib_is_refused_by_its_length(world: Make) -> None:
    w = world()
    w.inject(spoofed_address(1), initial(crypto_frame(0, b"\x01\xff\xff\xff" + bytes(1000))))
    [closed] = w.app.closed
    assert closed.error_code in (0x100 + 50, 0x0D)


def test_incomplete_client_hello_is_bounded(world: Make) -> None:
    w = world()
    dcid = os.urandom(8)
    peer = spoofed_address(1)
    for part in range(40):
        w.inject(peer, initial(crypto_frame(part * 1000, b"\x01\x00\xff\xff" + bytes(996)), dcid=dcid))
        if w.app.closed:
            break
    assert w.app.closed
    assert part <= 17


def test_flood_of_first_flights_gets_retry(world: Make) -> None:
    limits = Limits(retry_threshold=50, max_half_open=80)
    w = world(limits=limits)
    for number in range(300):
        w.inject(spoofed_address(number), client_hello(w))
    assert w.verdicts() == {"accepted": 50, "retried": 250}
    assert w.half_open() == len(w.engine.connections()) == 50
    assert w.ready().quic._retry_count == 1
    w.run(seconds=limits.handshake_timeout_s + 1)
    assert w.half_open() == 0
    assert w.counters()["handshakes_timed_out"] == 50
    assert w.ready().quic._retry_count == 0


CLOSE, CLOSE_BY_APPLICATION, UNKNOWN_FRAME, HANDSHAKE_DONE = b"\x1c\0\0\0", b"\x1d\0\0", b"\x1f", b"\x1e"


def closing_later(dcid: bytes) -> list[bytes]:
    return [*hello_datagrams(hello(), dcid=dcid), initial(CLOSE, dcid=dcid, scid=SCID, packet_number=1)]


#: Behaviour in or after a first flight with which the handshake ends at once or never completes.
FIRST_FLIGHTS: dict[str, Callable[[], list[bytes]]] = {
    "waits": lambda: hello_datagrams(hello()),
    "closes": lambda: hello_datagrams(hello(), CLOSE),
    "closes as an application": lambda: hello_datagrams(hello(), CLOSE_BY_APPLICATION),
    "closes in its next datagram": lambda: closing_later(os.urandom(8)),
    "sends an unknown frame": lambda: hello_datagrams(hello(), UNKNOWN_FRAME),
    "sends a frame that only servers send": lambda: hello_datagrams(hello(), HANDSHAKE_DONE),
    "goes on after its hello": lambda: hello_datagrams(hello() + b"\x01\0\0\x04abcd"),
    "allows no unidirectional streams": lambda: hello_datagrams(hello(transport=parameters(x09=0))),
    "has impossible parameters": lambda: hello_datagrams(hello(transport=parameters(x0a=21))),
    "has no parameters that can be read": lambda: hello_datagrams(hello(transport=b"\x40")),
    "speaks another protocol": lambda: hello_datagrams(hello(alpn=b"smtp")),
    "accepts no signature of ours": lambda: hello_datagrams(hello(schemes=(0x0101,))),
    "has a share that is no point": lambda: hello_datagrams(hello(kex.SECP256R1, share=b"\4" + bytes(64))),
    "needs a HelloRetryRequest": lambda: hello_datagrams(hello(with_share=False)),
    "needs one and closes": lambda: hello_datagrams(hello(with_share=False), CLOSE),
    "chooses the dearest group": lambda: hello_datagrams(hello(kex.SECP384R1), CLOSE),
    "sends half a hello": lambda: hello_datagrams(hello(kex.X25519_MLKEM768))[:1],
    "sends half a hello and closes": lambda: [initial(crypto_frame(0, hello()[:100]), CLOSE)],
    "sends no hello": lambda: [initial(b"\x01", CLOSE)],
    "cannot be decrypted": lambda: [(good := initial(b"\x01"))[:-1] + bytes([good[-1] ^ 1])],
}


@pytest.mark.parametrize("what", FIRST_FLIGHTS)
def test_failing_first_flights_get_retry_and_new_clients_are_accepted(world: Make, what: str) -> None:
    """A first flight costs up to 2 ms of CPU, also one whose connection is gone when the next one comes."""
    threshold = 20
    w = world(limits=Limits(retry_threshold=threshold))
    for number in range(3 * threshold):
        for datagram in FIRST_FLIGHTS[what]():
            w.inject(spoofed_address(number), datagram)
    verdicts = w.verdicts()
    assert verdicts["accepted"] == threshold
    assert verdicts["retried"] >= 2 * threshold
    honest = w.connect()
    assert w.run(lambda: honest.ready, seconds=0.3)
    assert honest.quic._retry_count == 1
    w.run(seconds=Limits().handshake_timeout_s)
    assert w.ready().quic._retry_count == 0, "without load no Retry is sent"


def test_expensive_client_hellos_reach_the_threshold_sooner(world: Make) -> None:
    """The CPU of the server's side of TLS counts, whatever the client chose to make it expensive."""
    w = world(limits=Limits(retry_threshold=40))
    cpu_ns = itertools.count(0, 4 * FLIGHT_CPU_US * 1000)
    w.hooks.admission._cpu_clock_ns = lambda: next(cpu_ns)
    for number in range(40):
        [datagram] = hello_datagrams(hello(), CLOSE)
        w.inject(spoofed_address(number), datagram)
    assert w.verdicts() == {"accepted": 10, "retried": 30}


def test_steady_spoofed_load_is_bounded_by_the_retry_threshold(world: Make) -> None:
    limits = Limits(retry_threshold=10, handshake_timeout_s=2.0)
    w = world(limits=limits)
    for number in range(400):
        [datagram] = hello_datagrams(hello(), CLOSE)
        w.inject(spoofed_address(number), datagram)
        w.run(seconds=0.05)
    assert w.verdicts()["accepted"] <= 20 / limits.handshake_timeout_s * limits.retry_threshold


def test_completed_handshakes_never_cause_retry(world: Make) -> None:
    """Completed handshakes do not cause a Retry for the next client: 100 of them, ten times the threshold."""
    w = world(limits=Limits(retry_threshold=10))
    clients = [w.ready() for _ in range(100)]
    assert [client.quic._retry_count for client in clients] == [0] * 100


def test_address_with_many_tokens_does_not_lock_out_others(world: Make) -> None:
    """One token many times, and any number of tokens: each handshake issues another one."""
    limits = Limits(retry_threshold=64, max_half_open=256)
    w = world(limits=limits)
    address, _ = w.ready().address
    spare = [w.hooks.address_token((address, 1)) for _ in range(1000)]
    for tokens in ([spare[0]] * 1000, spare):
        for number, token in enumerate(tokens):
            k = StockClient(w, (address, 1024 + number), token=token)
            k.start()
            w.inject(k.address, k.quic.datagrams_to_send(w.now_ns / 1e9)[0][0])
        honest = StockClient(w, (bytes((198, 51, 100, len(tokens) % 251)), 5555))
        w.attach(honest.address, honest)
        honest.start()
        assert w.run(lambda client=honest: client.ready, seconds=0.3)
    # As many as are accepted without a token, and an eighth of `max_half_open`.
    assert w.half_open() <= limits.retry_threshold + limits.max_half_open // 8
    assert w.hooks.admission.counters["tokens_seen_again"] >= 999
    assert w.hooks.admission.counters["tokens_not_honoured"] >= 900


def test_address_that_answers_every_retry_does_not_lock_out_others(world: Make) -> None:
    """It answers every Retry and then stops. An address of another network can connect and gets a response."""
    limits = Limits(retry_threshold=0, max_half_open=64)
    w = world(limits=limits)
    for number in range(50):
        k = StockClient(w, (bytes((203, 0, 113, number % 256)), 1024 + number))
        w.attach(k.address, k)
        k.start()
        w.inject(k.address, k.quic.datagrams_to_send(w.now_ns / 1e9)[0][0])
        w.run(lambda client=k: client.quic._retry_count == 1, seconds=0.1)
        k.deaf = True
        w.run(seconds=0.011)
    assert w.half_open() <= limits.max_half_open // 8
    assert w.verdicts()["dropped_prefix"] >= 40
    honest = w.connect()
    assert w.run(lambda: honest.ready, seconds=0.3)


def test_max_connections_is_enforced(world: Make) -> None:
    w = world(limits=Limits(max_connections=5))
    clients = [w.connect() for _ in range(8)]
    w.run(seconds=3)
    assert sum(client.ready for client in clients) == 5
    assert len(w.engine.connections()) == 5
    assert w.verdicts()["dropped_connections"] >= 3


def first_flight(w: World, address: tuple[bytes, int], token: bytes = b"") -> list[bytes]:
    """From a client that offers ML-DSA and post-quantum groups and never answers."""
    client = OurClient(w, address, token=token)
    client.start()
    return [datagram for datagram, _ in client.quic.datagrams_to_send(w.now_ns / 1e9)]


@pytest.mark.parametrize("kind", ["p256", "mldsa65", "mldsa87"])
@pytest.mark.parametrize("token", ["none", "used"])
def test_unvalidated_address_gets_at_most_three_times_its_bytes(world: Make, kind: str, token: str) -> None:
    """Also when it sends a used token: the present user of the address may not have sent it."""
    w = world(policy=tls_support.policy(tls_support.chain(kind)))
    peer, proof = spoofed_address(1), b""
    if token == "used":
        proof = w.hooks.address_token(peer)
        for datagram in first_flight(w, peer, proof):
            w.inject(peer, datagram)
        w.run(seconds=15)
        assert w.half_open() == 0
    before = sum(len(train.data) for train in w.sent)
    received = 0
    for datagram in first_flight(w, (peer[0], 4444), proof):
        w.inject((peer[0], 4444), datagram)
        received += len(datagram)
    w.run(seconds=15)
    sent = sum(len(train.data) for train in w.sent) - before
    assert w.counters()["handshakes_timed_out"] == len(w.hooks.initials), "each got a flight and not an alert"
    assert 2 * received < sent <= 3 * received
    assert w.hooks.admission.counters["tokens_seen_again"] == (token == "used")


def test_half_open_connection_costs_less_than_96_kib(world: Make) -> None:
    w = world(limits=Limits(retry_threshold=10_000, max_half_open=10_000))
    hellos = [client_hello(w) for _ in range(500)]
    for datagram in hellos[:100]:
        w.inject(spoofed_address(hash(datagram) & 0xFFFFFF), datagram)
    with Memory(w) as memory:
        for datagram in hellos[100:]:
            w.inject(spoofed_address(hash(datagram) & 0xFFFFFF), datagram)
        w.sent.clear()
        assert w.half_open() == 500
        assert memory.grown() / 400 < 96 * KIB


def test_random_datagrams_cause_no_state_no_answer_and_no_log(world: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Random bytes, and valid packets with random bytes changed."""
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
            w.give(Train(datagram, max(1, len(datagram)), spoofed_address(dice.randrange(9999)), SERVER, 0))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    # A changed source id or version is a valid Initial of another client, so some of them open a connection.
    assert len(w.engine.connections()) < 100


def test_initial_with_an_issued_id_opens_no_connection(world: Make) -> None:
    """Replayed from a closed connection: a decodable id without a Retry token."""
    w = world()
    cid = w.codec.issue(0x0A0B0C0D, 7)
    w.inject(spoofed_address(1), initial(crypto_frame(0, b"\x01\x00\x00\x10" + bytes(16)), dcid=cid))
    assert w.verdicts() == {"dropped_foreign_id": 1}
    assert w.sent == []
