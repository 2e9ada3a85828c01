"""HTTP/3 and QPACK by hand: frames and field sections that no encoder would make."""

from __future__ import annotations

from collections.abc import Iterable

from aioquic.buffer import encode_uint_var

Field = tuple[bytes, bytes]


def varint(value: int) -> bytes:
    encoded: bytes = encode_uint_var(value)
    return encoded


def frame(kind: int, payload: bytes = b"") -> bytes:
    return varint(kind) + varint(len(payload)) + payload


def prefixed(value: int, bits: int, first: int) -> bytes:
    """An integer behind a prefix (RFC 9204 section 4.1.1); *first* are the bits before it."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    value -= most
    more = b""
    while value >= 128:
        more += bytes((value & 127 | 128,))
        value >>= 7
    return bytes((first | most,)) + more + bytes((value,))


def section(fields: Iterable[Field]) -> bytes:
    """A field section of literals, without Huffman code: every byte is as it was given."""
    lines = (prefixed(len(n), 3, 0x20) + n + prefixed(len(v), 7, 0) + v for n, v in fields)
    return b"\0\0" + b"".join(lines)


def headers(fields: Iterable[Field]) -> bytes:
    """A HEADERS frame."""
    return frame(1, section(fields))


def request(
    path: bytes = b"/bytes/10",
    method: bytes = b"GET",
    authority: bytes = b"localhost",
    scheme: bytes = b"https",
    extra: Iterable[Field] = (),
) -> list[Field]:
    return [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path), *extra]
