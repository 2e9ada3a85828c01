"""HTTP/2 frames before h2 sees them: GOAWAY is taken out, and frames without content are counted. Pure.

h2 ends the whole connection at a GOAWAY, but a server that is being replaced announces it and then finishes the
streams up to the one that it names (RFC 9113 section 6.8). A flood of PING, SETTINGS and the like costs the receiver
more than the sender, so only so many are permitted between two frames that carry something. Everything else about
frames is left to h2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HEADER_BYTES: Final = 9
_DATA, _HEADERS, _GOAWAY = 0x0, 0x1, 0x7
#: The largest frame that a server may send, as our SETTINGS do not permit more (RFC 9113 section 4.2).
_MAX_FRAME_BYTES: Final = 16_384
#: Frames without content in succession. WINDOW_UPDATEs answer what was sent, and a body of 16 MiB has 1,024 frames.
MAX_EMPTY_FRAMES: Final = 4_096


class FrameError(Exception):
    """The server floods, or sends no frames. The text is for the log."""


@dataclass(frozen=True, slots=True)
class Goaway:
    """No further streams; those above `last_stream` were not processed."""

    last_stream: int
    error_code: int


class FrameFilter:
    """The state of one connection: where in a frame the bytes received so far end."""

    __slots__ = ("_empty", "_left", "_part", "_payload")

    def __init__(self) -> None:
        #: Bytes of the present frame that are still to come and pass.
        self._left = 0
        #: The beginning of a frame's header, or of a GOAWAY with its header.
        self._part = bytearray()
        self._payload = 0
        self._empty = 0

    def sent(self) -> None:
        """The client sent something, so that WINDOW_UPDATEs are due."""
        self._empty = 0

    def feed(self, data: bytes) -> Iterator[bytes | Goaway]:
        """Yield what is for h2, no two frames together, and each GOAWAY at its place. Raises `FrameError`.

        h2 forgets what it has understood of one call when a later frame of it is wrong.
        """
        at = 0
        while at < len(data):
            if self._left:
                step = data[at : at + self._left]
                self._left -= len(step)
                yield step
            else:
                step = data[at : at + _HEADER_BYTES + self._payload - len(self._part)]
                self._part += step
                if len(self._part) == _HEADER_BYTES + self._payload:
                    found = self._complete()
                    if found is not None:
                        yield found
            at += len(step)

    def _complete(self) -> bytes | Goaway | None:
        """Process the header of a frame, or a whole GOAWAY."""
        part, length, kind = bytes(self._part), int.from_bytes(self._part[:3], "big"), self._part[3]
        if kind == _GOAWAY and len(part) == _HEADER_BYTES:
            if not 8 <= length <= _MAX_FRAME_BYTES:
                raise FrameError("a GOAWAY of a wrong length")
            self._payload = length
            return None
        self._part.clear()
        self._payload = 0
        if kind == _GOAWAY:
            return Goaway(int.from_bytes(part[9:13], "big") & 0x7FFFFFFF, int.from_bytes(part[13:17], "big"))
        if length > _MAX_FRAME_BYTES:
            raise FrameError("no HTTP/2, or a frame that is too large")
        self._empty = 0 if kind in (_DATA, _HEADERS) and length else self._empty + 1
        if self._empty > MAX_EMPTY_FRAMES:
            raise FrameError(f"more than {MAX_EMPTY_FRAMES} frames without content")
        self._left = length
        return part
