"""A minimal DER (X.690) reader for what `cryptography` does not expose: definite lengths, one-byte tags, slices.

Strict: an element must fill what holds it exactly; otherwise ValueError is raised.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
SEQUENCE: Final = 0x30
CONTEXT_0: Final = 0x80
#: Constructed, as explicit tags are.
EXPLICIT_0: Final = 0xA0


def split(data: bytes) -> tuple[int, bytes, bytes]:
    """Return (tag, value, what follows) of the first element of *data*."""
    if len(data) < 2:
        raise ValueError("an element without a length")
    tag, length, at = data[0], data[1], 2
    if length & 0x80:
        at += length & 0x7F
        # 4 bytes of length are more than any certificate has; 0 would be the indefinite form, which DER forbids.
        if not 0 < length & 0x7F <= 4 or at > len(data):
            raise ValueError("an element's length")
        length = int.from_bytes(data[2:at], "big")
    if at + length > len(data):
        raise ValueError("an element is longer than what holds it")
    return tag, data[at : at + length], data[at + length :]


def element(data: bytes) -> tuple[int, bytes]:
    """Return (tag, value) of the one element that *data* must consist of."""
    tag, value, rest = split(data)
    if rest:
        raise ValueError("bytes after an element")
    return tag, value


def content(data: bytes, tag: int) -> bytes:
    """Return the value of the one element that *data* must consist of, which must have *tag*."""
    found, value = element(data)
    if found != tag:
        raise ValueError(f"an element has tag 0x{found:02x} instead of 0x{tag:02x}")
    return value


def sequence(data: bytes, tag: int = SEQUENCE) -> list[bytes]:
    """Return the elements of a SEQUENCE (or of another constructed *tag*), each with its tag and length."""
    rest, found = content(data, tag), []
    while rest:
        _, _, after = split(rest)
        found.append(rest[: len(rest) - len(after)])
        rest = after
    return found


def pem_block(pem: bytes, label: bytes) -> bytes | None:
    """Return the bytes of the first PEM block with *label* (RFC 7468), or None. Raises ValueError for bad base64."""
    match = re.search(rb"-----BEGIN " + label + rb"-----([^-]*)-----END " + label + rb"-----", pem)
    if match is None:
        return None
    try:
        return binascii.a2b_base64(b"".join(match[1].split()), strict_mode=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
