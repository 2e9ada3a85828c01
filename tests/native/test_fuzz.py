"""A client with valid keys sends packets with mutated content: the engine closes its connection, serves the next one.

Frames are mutated before they are encrypted, so every byte reaches the parsers of ngtcp2 and of our HTTP/3 code. Each
case is a seed, so that a failure can be repeated. VELOCITY_FUZZ_CASES sets how many there are.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from aioquic.buffer import UINT_VAR_MAX, encode_uint_var
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch

from tests.support.engine_driver import World
from velocity_edge.http.requests import RequestReceived
from velocity_edge.quic.limits import Limits

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

CASES = int(os.environ.get("VELOCITY_FUZZ_CASES", "60"))
INTERESTING = (0, 1, 0x3F, 0x40, 0x3FFF, 0x4000, 0x3FFFFFFF, 0x40000000, UINT_VAR_MAX)
#: Types of QUIC and HTTP/3 frames, to insert where a frame may begin.
TYPES = (*range(0x20), 0x21, 0x0D, 0x30, 0x31, 0xF0700, 0xF0701)
PATHS = ("/bytes/100", "/bytes/1000", "/file/100000", "/stream/100000", "/echo", "/hang", "/deaf")


def _mutate(dice: random.Random, payload: bytes) -> bytes:
    data = bytearray(payload)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << dice.randrange(8)
            case 1:
                data[at : at + dice.randrange(9)] = dice.randbytes(dice.randrange(9))
            case 2:
                value = encode_uint_var(dice.choice(INTERESTING))
                data[at : at + len(value)] = value
            case 3:
                data[at:at] = encode_uint_var(dice.choice(TYPES)) + dice.randbytes(dice.randrange(20))
            case 4:
                del data[at:]
            case _:
                # A frame in front: STREAM frames with extreme IDs, offsets and lengths.
                frame = bytes((8 | dice.randrange(8),)) + encode_uint_var(
                    dice.choice((0, 2, 3, 4, 396, 400, *INTERESTING))
                )
                frame += encode_uint_var(dice.choice(INTERESTING)) + dice.randbytes(dice.randrange(30))
                data[0:0] = frame
    return bytes(data[: len(payload)]).ljust(4, b"\0")  # no longer than before, so that it fits in the packet


def _mutate_packets(quic: QuicConnection, dice: random.Random, when: Callable[[Epoch], float]) -> None:
    """Mutate packets of *quic* with the probability that *when* gives for their epoch."""
    for epoch, pair in list(quic._cryptos.items()):

        def encrypt(
            plain_header: bytes,
            plain_payload: bytes,
            packet_number: int,
            epoch: Epoch = epoch,
            original: Any = pair.encrypt_packet,
        ) -> bytes:
            if dice.random() < when(epoch):
                length = len(plain_payload)
                plain_payload = _mutate(dice, plain_payload)
                if epoch in (Epoch.INITIAL, Epoch.HANDSHAKE):  # the long header has the length of the packet
                    plain_payload = plain_payload[:length].ljust(length, b"\0")
            return original(plain_header, plain_payload, packet_number)

        pair.encrypt_packet = encrypt


def _one(seed: int, when: Callable[[Epoch], float]) -> World:
    dice = random.Random(seed)
    w = World("native", seed=seed, limits=Limits(handshake_timeout_s=3.0, idle_timeout_s=5.0))
    respond = w.app.respond_by_path
    # Paths are mutated as well: only known ones get more than a 404.

    def answer(request: RequestReceived) -> None:
        if request.path.decode("latin-1") in PATHS:
            respond(request)
        else:
            w.engine.respond(request.stream, 404, [], b"no")

    w.app.handler = answer
    client = w.connect()
    _mutate_packets(client.quic, dice, when)
    w.run(lambda: client.ready or client.terminated is not None, seconds=4)
    if client.ready:
        for _ in range(6):
            path = dice.choice(PATHS)
            if path in ("/echo", "/deaf"):
                client.request("POST", path, body=bytes(dice.randrange(40_000)))
            else:
                client.get(path)
            w.run(seconds=0.05)
    w.run(seconds=30)
    # The connection is closed whatever was sent, and holds nothing.
    assert w.engine.connections() == []
    assert w.engine.unacked_bytes == w.engine.closing_count == 0
    assert w.ready().fetch("/bytes/1000").status == 200
    assert w.counters()["upcall_errors"] == 0
    w.close()
    return w


@pytest.mark.parametrize("seed", range(CASES))
def test_mutated_1rtt_packets(seed: int) -> None:
    _one(seed, lambda epoch: 0.3 if epoch == Epoch.ONE_RTT else 0.0)


@pytest.mark.parametrize("seed", range(CASES))
def test_mutated_handshake_packets(seed: int) -> None:
    _one(1000 + seed, lambda epoch: 0.3 if epoch != Epoch.ONE_RTT else 0.0)
