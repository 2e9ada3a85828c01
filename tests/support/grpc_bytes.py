"""gRPC by hand, over any HTTP: a message is a byte for compression, four for its length, and its bytes."""

from __future__ import annotations


def message(payload: bytes) -> bytes:
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def messages(body: bytes) -> list[bytes]:
    """Return the messages of a whole body."""
    found = []
    while body:
        length = int.from_bytes(body[1:5], "big")
        assert body[0] == 0
        assert len(body) >= 5 + length
        found.append(bytes(body[5 : 5 + length]))
        body = body[5 + length :]
    return found
