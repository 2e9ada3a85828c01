"""TLS 1.3 numbers, and the messages that a server writes (RFC 8446 section 4).

The ClientHello is read in client_hello.py; the client's messages are codec_client.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from velocity_edge.tls.vectors import extension, message, opaque

CLIENT_HELLO: Final = 1
SERVER_HELLO: Final = 2
NEW_SESSION_TICKET: Final = 4
ENCRYPTED_EXTENSIONS: Final = 8
CERTIFICATE: Final = 11
CERTIFICATE_REQUEST: Final = 13
CERTIFICATE_VERIFY: Final = 15
FINISHED: Final = 20
MESSAGE_HASH: Final = 254

EXT_SERVER_NAME: Final = 0
EXT_SUPPORTED_GROUPS: Final = 10
EXT_SIGNATURE_ALGORITHMS: Final = 13
EXT_ALPN: Final = 16
EXT_PADDING: Final = 21
EXT_EARLY_DATA: Final = 42
EXT_SUPPORTED_VERSIONS: Final = 43
EXT_COOKIE: Final = 44
EXT_PSK_MODES: Final = 45
EXT_CERTIFICATE_AUTHORITIES: Final = 47
EXT_KEY_SHARE: Final = 51
EXT_QUIC_PARAMETERS: Final = 57
#: RFC 9849. Not implemented: what a client sends in it is GREASE or for keys of another server.
EXT_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D

TLS_1_3: Final = 0x0304
PSK_DHE_KE: Final = 1
#: ServerHello.random of a HelloRetryRequest (RFC 8446 section 4.1.3).
RETRY_RANDOM: Final = hashlib.sha256(b"HelloRetryRequest").digest()

#: ServerHello's constant extension: supported_versions = TLS 1.3.
_VERSION_EXTENSION: Final = b"\x00\x2b\x00\x02\x03\x04"


def server_hello(random: bytes, session_id: bytes, suite: int, group: int, share: bytes, psk: int | None) -> bytes:
    """Build ServerHello; *psk* is the index of the identity that we resume."""
    extensions = (
        _VERSION_EXTENSION
        + b"\x00\x33"
        + (len(share) + 4).to_bytes(2, "big")
        + group.to_bytes(2, "big")
        + len(share).to_bytes(2, "big")
        + share
    )
    if psk is not None:
        extensions += b"\x00\x29\x00\x02" + psk.to_bytes(2, "big")
    return _server_hello(random, session_id, suite, extensions)


def hello_retry_request(session_id: bytes, suite: int, group: int) -> bytes:
    """Build HelloRetryRequest: send me a share of *group*."""
    return _server_hello(
        RETRY_RANDOM, session_id, suite, _VERSION_EXTENSION + b"\x00\x33\x00\x02" + group.to_bytes(2, "big")
    )


def _server_hello(random: bytes, session_id: bytes, suite: int, extensions: bytes) -> bytes:
    return message(
        SERVER_HELLO,
        b"\x03\x03"
        + random
        + bytes((len(session_id),))
        + session_id
        + suite.to_bytes(2, "big")
        + b"\x00"
        + len(extensions).to_bytes(2, "big")
        + extensions,
    )


def encrypted_extensions(alpn: bytes, parameters: bytes | None, early_data: bool) -> bytes:
    """Build EncryptedExtensions: ALPN (empty: none was agreed), QUIC transport parameters, accepted early data."""
    extensions = b""
    if alpn:
        extensions += extension(EXT_ALPN, opaque(opaque(alpn, 1), 2))
    if parameters is not None:
        extensions += extension(EXT_QUIC_PARAMETERS, parameters)
    if early_data:
        extensions += b"\x00\x2a\x00\x00"
    return message(ENCRYPTED_EXTENSIONS, opaque(extensions, 2))


def certificate(chain_der: Sequence[bytes]) -> bytes:
    """Build Certificate, leaf first. Constant per chain: certs.Chain keeps it."""
    entries = b"".join(len(der).to_bytes(3, "big") + der + b"\x00\x00" for der in chain_der)
    return message(CERTIFICATE, b"\x00" + len(entries).to_bytes(3, "big") + entries)


def certificate_verify(scheme: int, signature: bytes) -> bytes:
    """Build CertificateVerify."""
    return message(CERTIFICATE_VERIFY, scheme.to_bytes(2, "big") + len(signature).to_bytes(2, "big") + signature)


def finished(verify_data: bytes) -> bytes:
    """Build Finished."""
    return message(FINISHED, verify_data)


def new_session_ticket(lifetime_s: int, age_add: int, nonce: bytes, ticket: bytes, early_data: bool) -> bytes:
    """Build NewSessionTicket; QUIC allows only 0xffffffff as max_early_data_size (RFC 9001 section 4.6.1)."""
    extensions = b"\x00\x2a\x00\x04\xff\xff\xff\xff" if early_data else b""
    return message(
        NEW_SESSION_TICKET,
        lifetime_s.to_bytes(4, "big")
        + age_add.to_bytes(4, "big")
        + bytes((len(nonce),))
        + nonce
        + len(ticket).to_bytes(2, "big")
        + ticket
        + len(extensions).to_bytes(2, "big")
        + extensions,
    )


def message_hash(digest: bytes) -> bytes:
    """Stand-in for the first ClientHello in the transcript after a HelloRetryRequest (RFC 8446 section 4.4.1)."""
    return message(MESSAGE_HASH, digest)


#: What CertificateVerify signs is this, then the transcript hash (RFC 8446 section 4.4.3).
SERVER_SIGNATURE_CONTEXT: Final = b" " * 64 + b"TLS 1.3, server CertificateVerify" + b"\x00"
