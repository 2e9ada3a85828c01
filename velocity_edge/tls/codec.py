"""TLS 1.3 messages as a server reads and writes them (RFC 8446 section 4).

`parse_client_hello` is strict: every length must fit exactly, nothing may come twice, and only `Alert` leaves it. It is
fuzzed against aioquic's parser (tests/property): it accepts nothing that aioquic refuses. It slices one bytes object
instead of walking a cursor, because it runs once per connection attempt on the serving loop, for anybody.

What the values mean is decided in choices.py. The client's half is codec_client.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from velocity_edge.tls.alerts import decode_error, illegal_parameter
from velocity_edge.tls.vectors import (
    EXT_PRE_SHARED_KEY,
    TWO_U16,
    extension,
    filled,
    message,
    u16s,
    vector,
    vectors,
    whole,
)
from velocity_edge.tls.vectors import extensions as parse_extensions

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

TLS_1_3: Final = 0x0304
PSK_DHE_KE: Final = 1
#: ServerHello.random of a HelloRetryRequest (RFC 8446 section 4.1.3).
RETRY_RANDOM: Final = hashlib.sha256(b"HelloRetryRequest").digest()

_FIXED_BYTES: Final = 4 + 2 + 32
_MAX_SESSION_ID_BYTES: Final = 32
#: PskBinderEntry is opaque<32..255> (RFC 8446 section 4.2.11): no hash of TLS 1.3 is shorter.
_MIN_BINDER_BYTES: Final = 32

#: A DNS host name (RFC 6066 section 3): labels of 1 to 63 bytes, no trailing dot, and no IP address, which is what a
#: name with a numeric last label would be. The underscore and hyphens at the ends are in use and harm nobody.
_HOST_NAME: Final = re.compile(rb"(?:[0-9A-Za-z_-]{1,63}\.)*(?![0-9]+\Z)[0-9A-Za-z_-]{1,63}")
_MAX_HOST_NAME_BYTES: Final = 253


@dataclass(slots=True)
class ClientHello:
    """A ClientHello, well formed but not yet judged. None: the extension was not there."""

    message: bytes
    random: bytes
    session_id: bytes
    cipher_suites: tuple[int, ...]
    compression_methods: bytes
    #: Extensions that are not parsed below, by type.
    extensions: dict[int, bytes]
    versions: tuple[int, ...] = ()
    groups: tuple[int, ...] | None = None
    key_shares: dict[int, bytes] | None = None
    signature_schemes: tuple[int, ...] | None = None
    psk_modes: bytes = b""
    server_name: str | None = None
    alpn: tuple[bytes, ...] | None = None
    early_data: bool = False
    #: (ticket, obfuscated age in ms)
    psk_identities: Sequence[tuple[bytes, int]] = ()
    psk_binders: Sequence[bytes] = ()
    #: Where the binders list begins in `message`: binders sign what is before it.
    binders_at: int = 0


def parse_client_hello(message: bytes) -> ClientHello:
    """Parse a whole ClientHello message, header included."""
    end = len(message)
    if end < _FIXED_BYTES or message[0] != CLIENT_HELLO or int.from_bytes(message[1:4], "big") != end - 4:
        raise decode_error("ClientHello length")
    if message[4:6] != b"\x03\x03":
        raise decode_error("ClientHello.legacy_version")
    session_id, at = vector(message, _FIXED_BYTES, end, 1)
    suites, at = vector(message, at, end, 2)
    compression, at = vector(message, at, end, 1)
    block, at = vector(message, at, end, 2)
    if at != end:
        raise decode_error("bytes after the extensions")
    if len(session_id) > _MAX_SESSION_ID_BYTES or not suites or not compression:
        raise decode_error("legacy_session_id, cipher_suites or legacy_compression_methods has an impossible length")
    extensions = parse_extensions(block)
    hello = ClientHello(message, message[6:_FIXED_BYTES], session_id, u16s(suites), compression, extensions)
    take = extensions.pop
    if (data := take(EXT_KEY_SHARE, None)) is not None:
        hello.key_shares = _key_shares(whole(data, 2))
    if (data := take(EXT_SUPPORTED_VERSIONS, None)) is not None:
        hello.versions = u16s(filled(data, 1))
    if (data := take(EXT_SIGNATURE_ALGORITHMS, None)) is not None:
        hello.signature_schemes = u16s(filled(data, 2))
    if (data := take(EXT_SUPPORTED_GROUPS, None)) is not None:
        hello.groups = u16s(filled(data, 2))
    if (data := take(EXT_SERVER_NAME, None)) is not None:
        hello.server_name = _server_name(whole(data, 2))
    if (data := take(EXT_ALPN, None)) is not None:
        hello.alpn = tuple(vectors(filled(data, 2), 1, least=1))
    if (data := take(EXT_PSK_MODES, None)) is not None:
        hello.psk_modes = filled(data, 1)
    if (data := take(EXT_EARLY_DATA, None)) is not None:
        if data:
            raise decode_error("early_data is not empty")
        hello.early_data = True
    if (data := take(EXT_PRE_SHARED_KEY, None)) is not None:
        identities, binders_at = vector(data, 0, len(data), 2)
        hello.psk_identities = _identities(identities)
        hello.psk_binders = tuple(vectors(filled(data[binders_at:], 2), 1, least=_MIN_BINDER_BYTES))
        # pre_shared_key is the last extension (checked with the block), so it ends where the message ends.
        hello.binders_at = end - (len(data) - binders_at)
        if len(hello.psk_binders) != len(hello.psk_identities):
            raise illegal_parameter("identities and binders differ in number")
    return hello


def certificate_authorities(data: bytes) -> frozenset[bytes]:
    """Parse certificate_authorities: DER names of the roots that the client has (RFC 8446 section 4.2.4)."""
    return frozenset(vectors(filled(data, 2), 2, least=1))


def _key_shares(data: bytes) -> dict[int, bytes]:
    shares: dict[int, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        if end - at < 4:
            raise decode_error("a key share's header")
        group, size = TWO_U16(data, at)
        begin = at + 4
        at = begin + size
        if at > end or not size:
            raise decode_error("a key share is empty or longer than the list")
        if group in shares:
            raise illegal_parameter(f"two key shares for group 0x{group:04x}")
        shares[group] = data[begin:at]
    return shares


def _server_name(data: bytes) -> str:
    if not data or data[0] != 0:
        raise illegal_parameter("server name of an unknown type")
    name = whole(data[1:], 2)
    if len(name) > _MAX_HOST_NAME_BYTES or not _HOST_NAME.fullmatch(name):
        raise decode_error("server_name is not a host name (RFC 6066 section 3)")
    return name.decode("ascii").lower()


def _identities(data: bytes) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    at, end = 0, len(data)
    while at < end:
        identity, at = vector(data, at, end, 2)
        if not identity or end - at < 4:
            raise decode_error("a PSK identity that is empty or without an age")
        found.append((identity, int.from_bytes(data[at : at + 4], "big")))
        at += 4
    if not found:
        raise decode_error("pre_shared_key without an identity")
    return found


# --- messages --------------------------------------------------------------------------------------------------------


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


def encrypted_extensions(alpn: bytes, parameters: bytes, early_data: bool) -> bytes:
    """Build EncryptedExtensions: ALPN, QUIC transport parameters, and early_data when we took it."""
    extensions = (
        b"\x00\x10"
        + (len(alpn) + 3).to_bytes(2, "big")
        + (len(alpn) + 1).to_bytes(2, "big")
        + bytes((len(alpn),))
        + alpn
        + extension(EXT_QUIC_PARAMETERS, parameters)
    )
    if early_data:
        extensions += b"\x00\x2a\x00\x00"
    return message(ENCRYPTED_EXTENSIONS, len(extensions).to_bytes(2, "big") + extensions)


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
