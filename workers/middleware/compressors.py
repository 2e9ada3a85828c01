"""Compressing bodies: at once, or chunk by chunk with bounded memory and time.

A chunk is compressed in pieces of `PIECE_BYTES`, a millisecond each, between which the loop runs when the turn is over
(workers/serve/responses.py). At most `MAX_STREAMS` bodies of a worker are compressed at a time; further ones are sent
as they are. Bodies that are sent again and again are kept compressed (`Kept`).
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
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
#: Of one body, compressed: a bundle of scripts.
MAX_KEPT_BYTES: Final = 1024 * 1024
#: A kept file stays open.
MAX_KEPT_FILES: Final = 32
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
    """Compressed bodies, by the body: of a file that was not changed it is the same object."""

    def __init__(self, max_bytes: int = _KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        #: (id of the body, coding) -> the body, which so stays alive, and its compressed form; the oldest use first.
        self._bodies: OrderedDict[tuple[int, bytes], tuple[bytes | FileRange, bytes]] = OrderedDict()
        self._bytes = 0
        self._files = 0

    def close(self) -> None:
        """Drop everything: no revision compresses any more (handlers/resources.py)."""
        self._bodies.clear()
        self._bytes = self._files = 0

    def find(self, body: object, coder: Coder) -> bytes | None:
        """Return the compressed form of *body*, if it is kept."""
        found = self._bodies.get((id(body), coder.name))
        if found is None:
            return None
        self._bodies.move_to_end((id(body), coder.name))
        return found[1]

    def keep(self, body: bytes | FileRange, coder: Coder, compressed: bytes) -> None:
        """Keep the compressed form of *body*. What was not used for the longest time makes room."""
        if self.find(body, coder) is not None:
            return
        self._bodies[id(body), coder.name] = body, compressed
        self._weigh(body, compressed, 1)
        while self._bytes > self._max_bytes or self._files > MAX_KEPT_FILES:
            _, (old, old_compressed) = self._bodies.popitem(last=False)
            self._weigh(old, old_compressed, -1)

    def _weigh(self, body: bytes | FileRange, compressed: bytes, sign: int) -> None:
        self._files += sign if isinstance(body, FileRange) else 0
        self._bytes += sign * (len(compressed) + (0 if isinstance(body, FileRange) else len(body)))


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
        keep: Callable[[bytes], None] | None = None,
    ) -> None:
        """*flush*: after each chunk, so that a reader does not wait for the next one.

        *on_end* gets the number of bytes before and after, *keep* a result of up to `MAX_KEPT_BYTES`.
        """
        self.file = getattr(body, "file", None)
        self._body = body
        self._coder = coder
        self._flush = flush
        self._on_end = on_end
        self._keep = keep
        Compressed.alive += 1

    def __del__(self) -> None:
        Compressed.alive -= 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the compressed body. Raises `BodyCutShort` when the file became shorter, or cannot be read."""
        compressor = self._coder.new()
        taken = given = 0
        parts: list[bytes] | None = [] if self._keep is not None else None
        async for chunk in _chunks(self._body):
            taken += len(chunk)
            for data in self._pieces(compressor, chunk):
                given += len(data)
                if parts is not None:
                    parts.append(data)
                    parts = parts if given <= MAX_KEPT_BYTES else None
                if data:
                    yield data
                else:
                    await asyncio.sleep(0)
        last = compressor.flush()
        given += len(last)
        self._on_end(taken, given)
        if self._keep is not None and parts is not None:
            self._keep(b"".join((*parts, last)))
        yield last

    def _pieces(self, compressor: _Compressor, chunk: bytes) -> Iterator[bytes]:
        """Yield what comes out for each piece of *chunk*, also nothing."""
        for start in range(0, len(chunk), PIECE_BYTES):
            yield compressor.compress(chunk[start : start + PIECE_BYTES])
        if self._flush and chunk:
            yield compressor.flush(self._coder.flush_mode)


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
