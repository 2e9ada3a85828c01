"""The opening handshake of a WebSocket towards an HTTP/1.1 server (RFC 6455 section 4). Pure.

The client has sent an extended CONNECT (RFC 8441, RFC 9220), which has no key: the connection is authentic by itself.
The key is made here from random bytes of the caller, and the server's proof is checked here. Frames are not looked at.

Short because it is only the handshake.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from workers.proxy.client.fields import Fields, RequestHead

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY_BYTES: Final = 16


def upgrade_fields(head: RequestHead, nonce: bytes) -> tuple[Fields, bytes]:
    """Return the fields of the upgrade request, without Host, and the proof that the server must give."""
    key = base64.b64encode(nonce)
    fields = [*head.fields, (b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-key", key)]
    if not any(name == b"sec-websocket-version" for name, _ in head.fields):
        fields.append((b"sec-websocket-version", b"13"))
    return fields, base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def accepted(fields: Fields, proof: bytes) -> bool:
    """Whether the fields of a 101 response are those of a server that has understood the handshake."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    tokens = {token.strip().lower() for token in b",".join(values.get(b"connection", [])).split(b",")}
    upgrade = [value.lower() for value in values.get(b"upgrade", [])]
    return b"upgrade" in tokens and upgrade == [b"websocket"] and values.get(b"sec-websocket-accept") == [proof]
