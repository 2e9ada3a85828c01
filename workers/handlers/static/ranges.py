"""Range requests (RFC 9110 section 14): from the field's value to the bytes that are sent. Pure.

A malformed field, or one with more than `MAX_RANGES` pieces, is ignored: the response is the whole file (permitted by
section 14.2). Pieces that overlap or nearly touch are merged, so that no response is larger than the file
(CVE-2011-3192, "Apache killer"); the others keep the order of the request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

#: A multipart response costs a header of about 100 bytes per piece; no legitimate client asks for this many.
MAX_RANGES: Final = 32
#: A gap smaller than the header of a part is cheaper to send than to skip (RFC 9110 section 14.2).
MERGE_GAP_BYTES: Final = 80

_RANGE_SET: Final = re.compile(rb"bytes[ \t]*=[ \t]*(.*)", re.IGNORECASE | re.DOTALL)
_SPEC: Final = re.compile(rb"(\d{1,19})-(\d{0,19})|-(\d{1,19})")


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes (at least one) from `offset`."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset after the last byte."""
        return self.offset + self.length

    def content_range(self, size: int) -> bytes:
        """Return the value of Content-Range for this piece of *size* bytes."""
        return b"bytes %d-%d/%d" % (self.offset, self.end - 1, size)


def parse(value: bytes, size: int) -> list[Piece] | None:
    """Return the pieces of *size* bytes that *value* asks for; [] for none (416), None to ignore the field."""
    match = _RANGE_SET.fullmatch(value.strip(b" \t"))
    if match is None:
        return None
    specs = [spec.strip(b" \t") for spec in match[1].split(b",")]
    specs = [spec for spec in specs if spec]  # empty list elements are nothing (RFC 9110 section 5.6.1.2)
    if not specs or len(specs) > MAX_RANGES:
        return None
    pieces: list[Piece] = []
    for spec in specs:
        found = _SPEC.fullmatch(spec)
        if found is None:
            return None
        if found[3] is not None:
            length = min(int(found[3]), size)
            first = size - length
        else:
            first = int(found[1])
            if found[2] and int(found[2]) < first:
                return None
            length = min(int(found[2]) + 1 if found[2] else size, size) - first
        if length > 0:
            pieces = _merged(pieces, Piece(first, length))
    return pieces


def _merged(pieces: list[Piece], new: Piece) -> list[Piece]:
    """Return *pieces* with *new* added; touching pieces are merged at the first one's place."""
    position = len(pieces)
    while True:
        near = [
            i
            for i, other in enumerate(pieces)
            if new.offset < other.end + MERGE_GAP_BYTES and other.offset < new.end + MERGE_GAP_BYTES
        ]
        if not near:
            return [*pieces[:position], new, *pieces[position:]]
        touched = [new, *(pieces[i] for i in near)]
        first = min(piece.offset for piece in touched)
        new = Piece(first, max(piece.end for piece in touched) - first)
        position = min(position, near[0])
        pieces = [piece for i, piece in enumerate(pieces) if i not in near]


def part_head(boundary: bytes, content_type: bytes, piece: Piece, size: int) -> bytes:
    """Return the head of a part of a multipart/byteranges body (RFC 9110 section 14.6)."""
    return b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n" % (
        boundary,
        content_type,
        piece.content_range(size),
    )


def multipart_tail(boundary: bytes) -> bytes:
    """Return the end of the body, after the last part."""
    return b"\r\n--%b--\r\n" % boundary


def multipart_length(boundary: bytes, content_type: bytes, pieces: list[Piece], size: int) -> int:
    """Return the Content-Length of the whole multipart body."""
    heads = sum(len(part_head(boundary, content_type, piece, size)) + piece.length for piece in pieces)
    return heads + len(multipart_tail(boundary))
