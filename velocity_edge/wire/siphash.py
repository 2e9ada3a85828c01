"""SipHash-1-3 of 16 bytes, the Python twin of `quic_siphash13` in bpf/quic.h.

It masks the worker id in a connection ID (velocity_edge/wire/cid.py). Only 16-byte blocks are hashed, so it accepts
nothing else. Source: Aumasson and Bernstein, "SipHash: a fast
short-input PRF" (2012), with c=1 and d=3.
"""

from __future__ import annotations

import struct

_MASK = (1 << 64) - 1


def siphash13_16(key: bytes, block: bytes) -> int:
    """Return the 64-bit SipHash-1-3 of a 16-byte *block* under a 16-byte *key* (two little-endian words)."""
    k0: int
    k1: int
    k0, k1 = struct.unpack("<QQ", key)
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    # The last word holds the length in its top byte and no tail: 16 is a multiple of 8.
    for word in (*struct.unpack("<QQ", block), 16 << 56):
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = ((v1 << 13) | (v1 >> 51)) & _MASK ^ v0
    v0 = ((v0 << 32) | (v0 >> 32)) & _MASK
    v2 = (v2 + v3) & _MASK
    v3 = ((v3 << 16) | (v3 >> 48)) & _MASK ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = ((v3 << 21) | (v3 >> 43)) & _MASK ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = ((v1 << 17) | (v1 >> 47)) & _MASK ^ v2
    v2 = ((v2 << 32) | (v2 >> 32)) & _MASK
    return v0, v1, v2, v3
