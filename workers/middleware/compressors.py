"""Compressing bodies: at once, or chunk by chunk with bounded memory and time.

A chunk is compressed in pieces of `PIECE_BYTES`, a millisecond each, between which the loop runs when the turn is over
(workers/serve/responses.py). At most `MAX_STREAMS` bodies of a worker are compressed at a time; further ones are sent
as they are. Small bodies that are sent again and again are kept compressed (`Kept`).
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, ClassVar, Final, Literal, Protocol

import zstandard

from velocity_edge.http.requests import FileRange
from workers.http import BodyCutShort

Coding = Literal["zstd", "gzip"]
PIECE_BYTES: Final = 32 * 1024
#: With these, zstd needs up to 1.2 MiB for a stream, gzip 0.3 MiB: 64 streams are 80 MiB at most.
_ZSTD: Final = {"window_log": 18, "hash_log": 16, "chain_log": 16}
MAX_STREAMS: Final = 64
#: Bodies that are compressed at once, within a turn: at level 3 a millisecond.
AT_ONCE_BYTES: Final = 64 * 1024
_KEPT_BYTES: Final = 8 * 1024 * 1024
#: gzip levels for the levels of the configuration: zlib's 6 to 9 differ by less than 1 % and by a factor of 4 in time.
_ZLIB_LEVELS: Final = (1, 1, 2, 4, 5, 6, 6, 7, 8, 9)
#: Higher ones take more memory, and a piece more than a millisecond.
_ZSTD_LEVELS: Final = (1, 1, 2, 3, 3, 4, 5, 5, 6, 6)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self, mode: int = ..., /) -> bytes: ...


class Coder:
    """Makes compressors of one coding and level."""

    def __init__(self, coding: Coding, level: int) -> None:
        self.name = coding.encode()
        self._level = level
        self._new: Callable[[], Any]
        if coding == "zstd":
            parameters = zstandard.ZstdCompressionParameters.from_level(_ZSTD_LEVELS[level], **_ZSTD)
            self._new = lambda: zstandard.ZstdCompressor(compression_params=parameters).compressobj()
            self.flush_mode = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        else:
            self._new = lambda: zlib.compressobj(_ZLIB_LEVELS[level], zlib.DEFLATED, zlib.MAX_WBITS | 16)
            self.flush_mode = zlib.Z_SYNC_FLUSH

    def all(self, body: bytes) -> bytes:
        """Return *body*, compressed."""
        compressor: _Compressor = self._new()
        return compressor.compress(body) + compressor.flush()

    def new(self) -> _Compressor:
        """Return a compressor for one body."""
        compressor: _Compressor = self._new()
        return compressor


class Kept:
    """Compressed bodies, by the body: of files that were not changed it is the same object."""

    def __init__(self, max_bytes: int = _KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        #: (id of the body, coding) -> the body, which so stays alive, and its compressed form; the oldest use first.
        self._bodies: OrderedDict[tuple[int, bytes], tuple[bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def close(self) -> None:
        """Drop everything: no revision compresses any more (handlers/resources.py)."""
        self._bodies.clear()
        self._bytes = 0

    def get(self, body: bytes, coder: Coder) -> bytes:
        """Return *body* compressed."""
        key = id(body), coder.name
        found = self._bodies.get(key)
        if found is not None:
            self._bodies.move_to_end(key)
            return found[1]
        compressed = coder.all(body)
        self._bodies[key] = body, compressed
        self._bytes += len(body) + len(compressed)
        while self._bytes > self._max_bytes:
            _, old = self._bodies.popitem(last=False)
            self._bytes -= len(old[0]) + len(old[1])
        return compressed


class Compressed:
    """A body, compressed while it is sent. `file` is the file that it keeps open, if any (open_files.py)."""

    #: Number of instances in this process.
    alive: ClassVar[int] = 0

    def __init__(
        self,
        body: bytes | FileRange | AsyncIterable[bytes],
        coder: Coder,
        flush: bool,
        on_end: Callable[[int, int], None],
    ) -> None:
        """*flush*: after each chunk, so that a reader does not wait for the next one.

        *on_end* gets the number of bytes before and after.
        """
        self.file = getattr(body, "file", None)
        self._body = body
        self._coder = coder
        self._flush = flush
        self._on_end = on_end
        Compressed.alive += 1

    def __del__(self) -> None:
        Compressed.alive -= 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the compressed body. Raises `BodyCutShort` when the file became shorter, or cannot be read."""
        compressor = self._coder.new()
        taken = given = 0
        async for chunk in _chunks(self._body):
            for start in range(0, len(chunk), PIECE_BYTES):
                data = compressor.compress(chunk[start : start + PIECE_BYTES])
                if data:
                    given += len(data)
                    yield data
                else:
                    await asyncio.sleep(0)
            taken += len(chunk)
            if self._flush and chunk:
                data = compressor.flush(self._coder.flush_mode)
                given += len(data)
                yield data
        last = compressor.flush()
        given += len(last)
        self._on_end(taken, given)
        yield last


async def _chunks(body: bytes | FileRange | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        yield body
    elif isinstance(body, FileRange):
        position, end = body.offset, body.offset + body.length
        while position < end:
            try:
                chunk = os.pread(body.file.fd, min(PIECE_BYTES, end - position), position)
            except OSError as error:
                raise BodyCutShort(f"it cannot be read: {error.strerror}") from None
            if not chunk:
                raise BodyCutShort("the file became shorter while it was sent")
            position += len(chunk)
            yield chunk
    else:
        async for chunk in body:
            yield chunk
