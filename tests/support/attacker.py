"""What no honest client sends: packets made by hand, with keys that a client really has."""

from __future__ import annotations

import ctypes
import gc
import os
import tracemalloc
from collections.abc import Iterator
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from tests.support.engine_driver import StockClient, World


def varint(value: int) -> bytes:
    encoded: bytes = encode_uint_var(value)
    return encoded


def stream_frame(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    """RFC 9000 section 19.8, with offset and length."""
    return varint(0x0E | fin) + varint(stream_id) + varint(offset) + varint(len(data)) + data


def crypto_frame(offset: int, data: bytes) -> bytes:
    """RFC 9000 section 19.6."""
    return b"\x06" + varint(offset) + varint(len(data)) + data


def initial(*frames: bytes, dcid: bytes | None = None, token: bytes = b"") -> bytes:
    """A sound Initial of 1200 bytes with these frames, from a client that nobody knows."""
    dcid = dcid or os.urandom(8)
    crypto = CryptoPair()
    crypto.setup_initial(cid=dcid, is_client=True, version=1)
    builder = QuicPacketBuilder(
        host_cid=os.urandom(8), is_client=True, max_datagram_size=1200, peer_cid=dcid, peer_token=token, version=1
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    _push(builder, b"".join(frames))
    datagram: bytes = builder.flush()[0][0]
    return datagram


def client_hello(world: World) -> bytes:
    """The first Initial of a stock client, which is never heard of again."""
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
    """Give the server a packet with these frames now."""
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
    """`with Memory(world) as memory: ...; memory.grown()`: bytes that the engine's side came to hold, exactly.

    The size of the process would not do: what was freed before is used again, and growth does not show. Python's
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
