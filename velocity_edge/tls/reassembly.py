"""Whole TLS messages out of CRYPTO data, for engines that do not collect them in C.

Two rules are kept here because no state machine can see them: an unfinished message is bounded (nobody is
authenticated yet), and a message does not straddle a change of encryption level (RFC 9001 section 4.1.3).
"""

from __future__ import annotations

from collections.abc import Iterator

from velocity_edge.tls.alerts import decode_error, unexpected_message


class MessageReader:
    """Cuts a stream into messages. Use one per connection."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._level: int | None = None
        self._pending = b""

    def messages(self, level: int, data: bytes) -> Iterator[bytes]:
        """Yield the messages that *data* completes; keep the rest. Raises `Alert`."""
        if level != self._level:
            if self._pending:
                raise unexpected_message("an unfinished message at the end of an encryption level")
            self._level = level
        self._pending += data
        while len(self._pending) >= 4:
            end = 4 + int.from_bytes(self._pending[1:4], "big")
            if end > self._max_message_bytes:
                raise decode_error(f"a message of {end} bytes, more than {self._max_message_bytes}")
            if len(self._pending) < end:
                return
            message, self._pending = self._pending[:end], self._pending[end:]
            yield message
