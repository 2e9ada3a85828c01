"""The expanded ML-DSA private key for a seed: FIPS 204, algorithm 6 (ML-DSA.KeyGen_internal), in plain Python.

`cryptography` keeps and stores ML-DSA keys as 32-byte seeds, liboqs signs only with the expanded form, and no other
library here converts. It takes a few dozen milliseconds, once per key at start. Not constant in time: it runs before
anything is served, where no peer can measure it. Callers compare the computed public key with the certificate's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_Q: Final = 8_380_417
_D: Final = 13
_N: Final = 256
#: 256^-1 mod q
_N_INVERSE: Final = pow(_N, -1, _Q)
_ZETAS: Final = tuple(pow(1753, int(f"{i:08b}"[::-1], 2), _Q) for i in range(_N))

Polynomial = list[int]


@dataclass(frozen=True, slots=True)
class _Parameters:
    k: int
    l: int  # noqa: E741
    eta: int


PARAMETERS: Final = {
    "ML-DSA-44": _Parameters(4, 4, 2),
    "ML-DSA-65": _Parameters(6, 5, 4),
    "ML-DSA-87": _Parameters(8, 7, 2),
}


def expand(name: str, seed: bytes) -> tuple[bytes, bytes]:
    """Return (public key, expanded private key) of a 32-byte *seed*; *name* is one of `PARAMETERS`."""
    if len(seed) != 32:
        raise ValueError("a seed has 32 bytes")
    p = PARAMETERS[name]
    stretched = hashlib.shake_256(seed + bytes((p.k, p.l))).digest(128)
    rho, rho_prime, key = stretched[:32], stretched[32:96], stretched[96:]
    s1 = [_bounded(rho_prime + r.to_bytes(2, "little"), p.eta) for r in range(p.l)]
    s2 = [_bounded(rho_prime + (p.l + r).to_bytes(2, "little"), p.eta) for r in range(p.k)]
    s1_hat = [_ntt(s) for s in s1]
    t1, t0 = b"", b""
    for r in range(p.k):
        total = [0] * _N
        for s in range(p.l):
            a = _uniform(rho + bytes((s, r)))
            total = [(t + x * y) % _Q for t, x, y in zip(total, a, s1_hat[s], strict=True)]
        t = [(x + y) % _Q for x, y in zip(_inverse_ntt(total), s2[r], strict=True)]
        # Power2Round (algorithm 35): low part in (-2^12, 2^12].
        low = [((c + (1 << _D - 1) - 1) % (1 << _D)) - (1 << _D - 1) + 1 for c in t]
        t1 += _pack([c - x >> _D for c, x in zip(t, low, strict=True)], 10)
        t0 += _pack([(1 << _D - 1) - x for x in low], _D)
    public = rho + t1
    bits = (2 * p.eta).bit_length()
    secrets = b"".join(_pack([p.eta - c for c in s], bits) for s in (*s1, *s2))
    return public, rho + key + hashlib.shake_256(public).digest(64) + secrets + t0


def _uniform(seed: bytes) -> Polynomial:
    """RejNTTPoly (algorithm 30)."""
    found: Polynomial = []
    # 5 blocks hold 280 candidates of which 1 in 1024 is refused; more blocks in the rare other case.
    size = 5 * 168
    while len(found) < _N:
        stream = hashlib.shake_128(seed).digest(size)
        candidates = (int.from_bytes(stream[i : i + 3], "little") & 0x7FFFFF for i in range(0, size, 3))
        found = [c for c in candidates if c < _Q][:_N]
        size += 168
    return found


def _bounded(seed: bytes, eta: int) -> Polynomial:
    """RejBoundedPoly (algorithm 31): coefficients in -eta..eta."""
    found: Polynomial = []
    size = 136
    while len(found) < _N:
        found = list(_halves(hashlib.shake_256(seed).digest(size), eta))[:_N]
        size += 136
    return found


def _halves(stream: bytes, eta: int) -> Iterator[int]:
    for byte in stream:
        for half in (byte & 15, byte >> 4):
            if eta == 2 and half < 15:
                yield 2 - half % 5
            elif eta == 4 and half < 9:
                yield 4 - half


def _ntt(w: Polynomial) -> Polynomial:
    """Algorithm 41."""
    w, m, length = list(w), 0, 128
    while length:
        for start in range(0, _N, 2 * length):
            m += 1
            zeta = _ZETAS[m]
            for j in range(start, start + length):
                t = zeta * w[j + length] % _Q
                w[j + length], w[j] = (w[j] - t) % _Q, (w[j] + t) % _Q
        length >>= 1
    return w


def _inverse_ntt(w: Polynomial) -> Polynomial:
    """Algorithm 42."""
    w, m, length = list(w), _N, 1
    while length < _N:
        for start in range(0, _N, 2 * length):
            m -= 1
            zeta = -_ZETAS[m]
            for j in range(start, start + length):
                t = w[j]
                w[j], w[j + length] = (t + w[j + length]) % _Q, zeta * (t - w[j + length]) % _Q
        length <<= 1
    return [c * _N_INVERSE % _Q for c in w]


def _pack(values: Polynomial, bits: int) -> bytes:
    """SimpleBitPack (algorithm 16): little-endian, *bits* each."""
    total = 0
    for position, value in enumerate(values):
        total |= value << position * bits
    return total.to_bytes(len(values) * bits // 8, "little")
