"""Packets that no honest client sends: made by hand, with the real keys of a client."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import tracemalloc
from collections.abc import Iterator
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from tests.support import tls as tls_support
from tests.support.engine_driver import StockClient, World
from velocity_edge.tls import codec_client, kex
from velocity_edge.tls.codec_client import Offer


def varint(value: int) -> bytes:
    encoded: bytes = encode_uint_var(value)
    return encoded


def stream_frame(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    """RFC 9000 section 19.8, with offset and length."""
    return varint(0x0E | fin) + varint(stream_id) + varint(offset) + varint(len(data)) + data


def crypto_frame(offset: int, data: bytes) -> bytes:
    """RFC 9000 section 19.6."""
    return b"\x06" + varint(offset) + varint(len(data)) + data


def initial(
    *frames: bytes,
    dcid: bytes | None = None,
    token: bytes = b"",
    scid: bytes | None = None,
    packet_number: int = 0,
) -> bytes:
    """A valid Initial of 1200 bytes with these frames, from an unknown client."""
    dcid = dcid or os.urandom(8)
    crypto = CryptoPair()
    crypto.setup_initial(cid=dcid, is_client=True, version=1)
    builder = QuicPacketBuilder(
        host_cid=scid or os.urandom(8),
        is_client=True,
        max_datagram_size=1200,
        peer_cid=dcid,
        peer_token=token,
        version=1,
        packet_number=packet_number,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    _push(builder, b"".join(frames))
    datagram: bytes = builder.flush()[0][0]
    return datagram


#: A client's connection ID in `hello` and `hello_datagrams`.
SCID = b"attacker"
_SOUND_PARAMETERS = {0x01: 30_000, 0x04: 1 << 20, 0x05: 1 << 18, 0x06: 1 << 18, 0x07: 1 << 18, 0x08: 100, 0x09: 3}


def parameters(**changes: int) -> bytes:
    """Transport parameters of a client (RFC 9000 section 18.2), some of them changed: parameters(x09=0)."""
    numbers = _SOUND_PARAMETERS | {int(name[1:], 16): value for name, value in changes.items()}
    encoded = [varint(number) + varint(len(varint(value))) + varint(value) for number, value in numbers.items()]
    return b"".join(encoded) + varint(0x0F) + varint(len(SCID)) + SCID


def hello(
    group: int = kex.X25519,
    *,
    share: bytes | None = None,
    with_share: bool = True,
    schemes: tuple[int, ...] = (0x0403,),
    alpn: bytes = b"h3",
    transport: bytes | None = None,
) -> bytes:
    """A ClientHello with the given group, share, signature and transport parameters."""
    shares = {group: share or kex.GROUPS[group].start()[1]} if with_share else {}
    offer = Offer(
        os.urandom(32), [0x1301], [group], shares, schemes, tls_support.NAME, [alpn], transport or parameters()
    )
    return codec_client.client_hello(offer, None, 0, 32)


def hello_datagrams(
    message: bytes, *frames: bytes, first: int = 1000, piece: int = 1000, dcid: bytes | None = None
) -> list[bytes]:
    """The Initials that carry a ClientHello: *first* bytes of it, then *piece* bytes each; *frames* after its end."""
    dcid, cuts = dcid or os.urandom(8), [0, *range(first, len(message), piece), len(message)]
    return [
        initial(
            crypto_frame(begin, message[begin:end]),
            *(frames if end == len(message) else ()),
            dcid=dcid,
            scid=SCID,
            packet_number=number,
        )
        for number, (begin, end) in enumerate(itertools.pairwise(cuts))
    ]


def client_hello(world: World) -> bytes:
    """The first Initial of a stock client, which never sends again."""
    client = StockClient(world, world.address())
    client.start()
    datagram: bytes = client.quic.datagrams_to_send(world.now_ns / 1e9)[0][0]
    return datagram


def packet(client: StockClient, *frames: bytes) -> bytes:
    """A 1-RTT packet of *client* with these frames. aioquic does not know that it was sent."""
    quic: Any = client.quic
    builder = QuicPacketBuilder(
        host_cid=quic.host_cid,
        is_client=True,
        max_datagram_size=1400,
        packet_number=quic._packet_number,
        peer_cid=quic._peer_cid.cid,
        version=1,
    )
    builder.start_packet(QuicPacketType.ONE_RTT, quic._cryptos[tls.Epoch.ONE_RTT])
    _push(builder, b"".join(frames))
    datagram: bytes = builder.flush()[0][0]
    quic._packet_number = builder.packet_number
    return datagram


def send(client: StockClient, *frames: bytes) -> None:
    """Deliver a packet with these frames to the server now."""
    client.world.inject(client.address, packet(client, *frames))


def in_packets(frames: Iterator[bytes], size: int = 1300) -> Iterator[bytes]:
    """Join frames to payloads of at most *size* bytes."""
    payload = b""
    for frame in frames:
        if len(payload) + len(frame) > size:
            yield payload
            payload = b""
        payload += frame
    if payload:
        yield payload


def _push(builder: QuicPacketBuilder, payload: bytes) -> None:
    first = Buffer(data=payload)
    frame_type = first.pull_uint_var()
    buf = builder.start_frame(frame_type, capacity=len(payload))
    buf.push_bytes(payload[first.tell() :])


class Memory:
    """`with Memory(world) as memory: ...; memory.grown()`: bytes that the engine's side allocated and kept, exactly.

    The size of the process does not show it: freed memory is used again. Python's
    objects are counted by tracemalloc, the native engine's by the allocator (mallinfo2).
    """

    def __init__(self, world: World) -> None:
        self._native = world.engine.name == "native"
        self._before = 0

    def __enter__(self) -> Memory:
        gc.collect()
        if not self._native:
            tracemalloc.start()
        self._before = self._held()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._native:
            tracemalloc.stop()

    def grown(self) -> int:
        gc.collect()
        return self._held() - self._before

    def _held(self) -> int:
        if not self._native:
            return tracemalloc.get_traced_memory()[0]
        information = _mallinfo2()
        return int(information.uordblks + information.hblkhd)


class _MallInfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


_mallinfo2 = ctypes.CDLL(None).mallinfo2
_mallinfo2.restype = _MallInfo2
