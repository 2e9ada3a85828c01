"""A stateless reset ends in the documented token and is shorter than the packet that it answers."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.quic.reset import build_reset, reset_length, reset_token


def test_a_reset_token_is_the_documented_mac() -> None:
    cid = bytes([3 << 5 | 19]) + bytes(range(19))
    assert reset_token({3: b"key"}, cid) == hmac.new(b"key", cid, hashlib.sha256).digest()[:16]
    assert reset_token({2: b"key"}, cid) is None


@given(st.integers(0, 2000))
def test_a_reset_is_shorter_than_its_trigger(trigger: int) -> None:
    length = reset_length(trigger)
    if length is None:
        assert trigger < 42
        return
    reset = build_reset(bytes(16), length, lambda n: bytes([0xFF]) * n)
    assert len(reset) == length < trigger
    assert reset[0] & 0xC0 == 0x40
