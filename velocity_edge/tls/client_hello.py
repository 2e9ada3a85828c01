"""The first message of a client: a step that may replace it, then the parser (RFC 8446 section 4.1.2).

`HelloOpener` runs before the parser, on each ClientHello of a handshake. It is where Encrypted Client Hello belongs
(RFC 9849): what it returns is parsed and enters the transcript in the place of what came. `PlainHello` is the opener of
a server without ECH keys.

`parse_client_hello` is strict: every length must fit exactly, nothing may come twice, and only `Alert` leaves it. It is
fuzzed against aioquic's parser (tests/property): it accepts nothing that aioquic refuses. It slices one bytes object
instead of walking a cursor, because it runs once per connection attempt on the serving loop, for any sender.

What the values mean is decided in choices.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from velocity_edge.tls.alerts import decode_error, illegal_parameter
from velocity_edge.tls.codec import (
    CLIENT_HELLO,
    EXT_ALPN,
    EXT_EARLY_DATA,
    EXT_ENCRYPTED_CLIENT_HELLO,
    EXT_KEY_SHARE,
    EXT_PSK_MODES,
    EXT_SERVER_NAME,
    EXT_SIGNATURE_ALGORITHMS,
    EXT_SUPPORTED_GROUPS,
    EXT_SUPPORTED_VERSIONS,
)
from velocity_edge.tls.vectors import (
    EXT_PRE_SHARED_KEY,
    TWO_U16,
    filled,
    u16s,
    vector,
    vectors,
    whole,
)
from velocity_edge.tls.vectors import extensions as parse_extensions


class HelloOpener(Protocol):
    """Turns the ClientHello that came into the one that counts. One object per handshake: it may keep state.

    After a HelloRetryRequest the same object opens the second ClientHello.
    """

    def open(self, message: bytes) -> bytes:
        """Return the ClientHello to parse, header included. Raises `Alert`."""


class PlainHello:
    """A `HelloOpener` that passes on what came.

    A server without ECH keys ignores encrypted_client_hello, which is GREASE or for keys that it does not have
    (RFC 9849 section 7.1); `ClientHello.ech_offered` tells such a hello from others.
    """

    def open(self, message: bytes) -> bytes:
        """Return *message*."""
        return message


_FIXED_BYTES: Final = 4 + 2 + 32
_MAX_SESSION_ID_BYTES: Final = 32
#: PskBinderEntry is opaque<32..255> (RFC 8446 section 4.2.11): no hash of TLS 1.3 is shorter.
_MIN_BINDER_BYTES: Final = 32

#: A DNS host name (RFC 6066 section 3): labels of 1 to 63 bytes, no trailing dot, and no IP address, which is what a
#: name with a numeric last label would be. The underscore and hyphens at the ends are in use and harmless.
_HOST_NAME: Final = re.compile(rb"(?:[0-9A-Za-z_-]{1,63}\.)*(?![0-9]+\Z)[0-9A-Za-z_-]{1,63}")
_MAX_HOST_NAME_BYTES: Final = 253


@dataclass(slots=True)
class ClientHello:
    """A ClientHello, well formed but not yet checked. None: the extension was not there."""

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
    #: encrypted_client_hello came and was not opened.
    ech_offered: bool = False
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
    hello.ech_offered = EXT_ENCRYPTED_CLIENT_HELLO in extensions
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
