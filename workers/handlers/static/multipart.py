"""A response with several ranges of a file (multipart/byteranges, RFC 9110 section 14.6), produced chunk by chunk.

Which ranges it has is decided in ranges.py; how many such responses may be in flight, here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import ClassVar, Final

from velocity_edge.http.requests import FileRange
from workers.handlers.static import ranges
from workers.handlers.static.files import Representation
from workers.http import BodyCutShort

#: Bytes per read; the engine's watermarks decide how many reads happen ahead of the network.
_CHUNK_BYTES: Final = 64 * 1024
#: Multipart responses of a worker in flight. Each keeps up to `Limits.send_high_bytes` (256 KiB) in memory, even when
#: its client reads nothing: 64 MiB together. Above this a request gets the whole file, which needs no buffer here.
MAX_MULTIPARTS: Final = 256


class Multipart:
    """A multipart/byteranges body, read in bounded chunks. `file` is the file that it keeps open, if any."""

    #: Number of instances in this process.
    alive: ClassVar[int] = 0

    def __init__(self, chosen: Representation, pieces: list[ranges.Piece], boundary: bytes) -> None:
        self.file = chosen.file
        self._chosen = chosen
        self._pieces = pieces
        self._boundary = boundary
        Multipart.alive += 1

    def __del__(self) -> None:
        Multipart.alive -= 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises `BodyCutShort` when the file became shorter, or cannot be read."""
        chosen = self._chosen
        for piece in self._pieces:
            yield ranges.part_head(self._boundary, chosen.content_type, piece, chosen.size)
            data = chosen.piece(piece.offset, piece.length)
            if not isinstance(data, FileRange):
                yield data
                continue
            position = piece.offset
            while position < piece.end:
                try:
                    chunk = os.pread(data.file.fd, min(_CHUNK_BYTES, piece.end - position), position)
                except OSError as error:
                    raise BodyCutShort(f"it cannot be read: {error.strerror}") from None
                if not chunk:
                    raise BodyCutShort("the file became shorter while it was sent")
                position += len(chunk)
                yield chunk
        yield ranges.multipart_tail(self._boundary)
