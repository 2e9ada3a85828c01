"""The building blocks of TLS messages (RFC 8446 section 3.4): length-prefixed vectors, lists of numbers, extensions.

Everything here is strict and raises `Alert` decode_error for what does not fit exactly. The messages are in codec.py,
codec_client.py and client_hello.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, unpack_from
from typing import Final

from velocity_edge.tls.alerts import decode_error, illegal_parameter

EXT_PRE_SHARED_KEY: Final = 41

TWO_U16: Final = Struct(">HH").unpack_from


def vector(data: bytes, at: int, end: int, length_bytes: int) -> tuple[bytes, int]:
    """Return the vector whose length stands at *at*, and where it ends; it must end before *end*."""
    begin = at + length_bytes
    stop = begin + int.from_bytes(data[at:begin], "big")
    if begin > end or stop > end:
        raise decode_error("a vector is longer than what holds it")
    return data[begin:stop], stop


def whole(data: bytes, length_bytes: int) -> bytes:
    """Return the one vector that *data* must consist of."""
    if len(data) < length_bytes or int.from_bytes(data[:length_bytes], "big") != len(data) - length_bytes:
        raise decode_error("a vector does not fill what holds it")
    return data[length_bytes:]


def filled(data: bytes, length_bytes: int) -> bytes:
    """Return the one vector that *data* must consist of, where its definition requires a byte or more."""
    if not (found := whole(data, length_bytes)):
        raise decode_error("a vector is empty where it must not be")
    return found


def vectors(data: bytes, length_bytes: int, least: int = 0) -> Iterator[bytes]:
    """Yield the vectors that *data* consists of, each of *least* bytes or more."""
    at, end = 0, len(data)
    while at < end:
        item, at = vector(data, at, end, length_bytes)
        if len(item) < least:
            raise decode_error("a vector is shorter than it must be")
        yield item


def u16s(data: bytes) -> tuple[int, ...]:
    """Return the 16-bit numbers that *data* consists of."""
    if len(data) & 1:
        raise decode_error("a list of 16-bit numbers has an odd length")
    return unpack_from(f">{len(data) >> 1}H", data)


def extensions(block: bytes) -> dict[int, bytes]:
    """Return extensions by type. None may come twice, and pre_shared_key must be the last (RFC 8446 section 4.2)."""
    found: dict[int, bytes] = {}
    at, end, kind = 0, len(block), -1
    while at < end:
        if kind == EXT_PRE_SHARED_KEY:
            raise illegal_parameter("pre_shared_key is not the last extension")
        if end - at < 4:
            raise decode_error("an extension's header")
        kind, size = TWO_U16(block, at)
        begin = at + 4
        at = begin + size
        if at > end:
            raise decode_error("an extension is longer than the block")
        if kind in found:
            raise illegal_parameter(f"extension {kind} comes twice")
        found[kind] = block[begin:at]
    return found


def message(kind: int, body: bytes) -> bytes:
    """Put the handshake header in front of *body*."""
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


def extension(kind: int, data: bytes) -> bytes:
    """Return an extension with its header."""
    return kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def opaque(data: bytes, length_bytes: int) -> bytes:
    """Put a length of *length_bytes* in front of *data*."""
    return len(data).to_bytes(length_bytes, "big") + data
