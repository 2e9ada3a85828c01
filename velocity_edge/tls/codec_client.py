"""TLS 1.3 messages as a client writes and reads them (RFC 8446 section 4): the counterpart of codec.py.

What the values mean is decided in client.py and client_checks.py. The parsers raise only `Alert`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from velocity_edge.tls.alerts import decode_error
from velocity_edge.tls.codec import (
    CLIENT_HELLO,
    EXT_ALPN,
    EXT_COOKIE,
    EXT_EARLY_DATA,
    EXT_KEY_SHARE,
    EXT_PADDING,
    EXT_PSK_MODES,
    EXT_QUIC_PARAMETERS,
    EXT_SERVER_NAME,
    EXT_SIGNATURE_ALGORITHMS,
    EXT_SUPPORTED_GROUPS,
    EXT_SUPPORTED_VERSIONS,
    RETRY_RANDOM,
)
from velocity_edge.tls.vectors import EXT_PRE_SHARED_KEY, extension, extensions, message, opaque, vector, whole


@dataclass(frozen=True, slots=True)
class Offer:
    """The content of a ClientHello, apart from the PSK."""

    random: bytes
    suites: Sequence[int]
    groups: Sequence[int]
    key_shares: Mapping[int, bytes]
    signature_schemes: Sequence[int]
    server_name: str | None
    #: Empty: no ALPN.
    alpn: Sequence[bytes]
    #: QUIC's transport parameters; None without QUIC.
    parameters: bytes | None
    early_data: bool = False
    cookie: bytes | None = None
    #: Bytes of padding (RFC 7685): a larger first flight lets a QUIC server send more before the address is validated.
    padding_bytes: int = 0


def client_hello(offer: Offer, ticket: bytes | None, obfuscated_age_ms: int, binder_bytes: int) -> bytes:
    """Build a ClientHello. With a *ticket* its last `binder_bytes` are zeros: the caller puts the binder there."""
    parts = [
        extension(EXT_SUPPORTED_VERSIONS, b"\x02\x03\x04"),
        extension(EXT_SUPPORTED_GROUPS, opaque(_u16_list(offer.groups), 2)),
        extension(
            EXT_KEY_SHARE,
            opaque(b"".join(g.to_bytes(2, "big") + opaque(share, 2) for g, share in offer.key_shares.items()), 2),
        ),
        extension(EXT_SIGNATURE_ALGORITHMS, opaque(_u16_list(offer.signature_schemes), 2)),
    ]
    if offer.alpn:
        parts.append(extension(EXT_ALPN, opaque(b"".join(opaque(name, 1) for name in offer.alpn), 2)))
    parts.append(extension(EXT_PSK_MODES, b"\x01\x01"))
    if offer.parameters is not None:
        parts.append(extension(EXT_QUIC_PARAMETERS, offer.parameters))
    if offer.server_name is not None:
        name = offer.server_name.encode("ascii")
        parts.append(extension(EXT_SERVER_NAME, opaque(b"\0" + opaque(name, 2), 2)))
    if offer.cookie is not None:
        parts.append(extension(EXT_COOKIE, offer.cookie))
    if offer.padding_bytes:
        parts.append(extension(EXT_PADDING, bytes(offer.padding_bytes)))
    if offer.early_data:
        parts.append(extension(EXT_EARLY_DATA, b""))
    if ticket is not None:
        identity = opaque(ticket, 2) + obfuscated_age_ms.to_bytes(4, "big")
        parts.append(extension(EXT_PRE_SHARED_KEY, opaque(identity, 2) + opaque(opaque(bytes(binder_bytes), 1), 2)))
    return message(
        CLIENT_HELLO,
        b"\x03\x03"
        + offer.random
        + b"\0"
        + opaque(_u16_list(offer.suites), 2)
        + b"\x01\x00"
        + opaque(b"".join(parts), 2),
    )


def binders_bytes(binder_bytes: int) -> int:
    """Return how many last bytes of `client_hello` the binder does not sign: the list, its lengths included."""
    return 2 + 1 + binder_bytes


def _u16_list(values: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


@dataclass(frozen=True, slots=True)
class ServerHello:
    """A ServerHello or HelloRetryRequest, well formed but not yet checked."""

    random: bytes
    session_id: bytes
    suite: int
    compression: int
    extensions: dict[int, bytes]

    @property
    def is_retry(self) -> bool:
        """Whether it is a HelloRetryRequest."""
        return self.random == RETRY_RANDOM


def _body(data: bytes) -> bytes:
    if len(data) < 4 or int.from_bytes(data[1:4], "big") != len(data) - 4:
        raise decode_error("a message's length")
    return data[4:]


def parse_server_hello(data: bytes) -> ServerHello:
    """Parse ServerHello or HelloRetryRequest."""
    body = _body(data)
    if len(body) < 35 or body[:2] != b"\x03\x03":
        raise decode_error("ServerHello.legacy_version or length")
    session_id, at = vector(body, 34, len(body), 1)
    if len(body) < at + 3:
        raise decode_error("ServerHello is too short")
    found = extensions(whole(body[at + 3 :], 2))
    return ServerHello(body[2:34], session_id, int.from_bytes(body[at : at + 2], "big"), body[at + 2], found)


def parse_encrypted_extensions(data: bytes) -> dict[int, bytes]:
    """Return the extensions of EncryptedExtensions by type."""
    return extensions(whole(_body(data), 2))


def parse_certificate(data: bytes) -> list[bytes]:
    """Return the certificates (DER, leaf first) of a server's Certificate message."""
    body = _body(data)
    context, at = vector(body, 0, len(body), 1)
    entries, end = whole(body[at:], 3), 0
    if context:
        raise decode_error("a server's certificate_request_context is not empty")
    found = []
    while end < len(entries):
        der, end = vector(entries, end, len(entries), 3)
        _, end = vector(entries, end, len(entries), 2)
        found.append(der)
    # RFC 8446 section 4.4.2.4: an empty list from a server is decode_error.
    if not found:
        raise decode_error("no certificate")
    return found


def parse_certificate_request(data: bytes) -> bytes:
    """Return the context of CertificateRequest, to be echoed."""
    body = _body(data)
    context, at = vector(body, 0, len(body), 1)
    extensions(whole(body[at:], 2))
    return context


def parse_certificate_verify(data: bytes) -> tuple[int, bytes]:
    """Return (scheme, signature)."""
    body = _body(data)
    if len(body) < 4:
        raise decode_error("CertificateVerify is too short")
    return int.from_bytes(body[:2], "big"), whole(body[2:], 2)


@dataclass(frozen=True, slots=True)
class NewSessionTicket:
    """A ticket as received."""

    lifetime_s: int
    age_add: int
    nonce: bytes
    ticket: bytes
    early_data: bool


def parse_new_session_ticket(data: bytes) -> NewSessionTicket:
    """Parse NewSessionTicket."""
    body = _body(data)
    if len(body) < 8:
        raise decode_error("NewSessionTicket is too short")
    nonce, at = vector(body, 8, len(body), 1)
    ticket, at = vector(body, at, len(body), 2)
    found = extensions(whole(body[at:], 2))
    if not ticket:
        raise decode_error("an empty ticket")
    return NewSessionTicket(
        int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big"), nonce, ticket, EXT_EARLY_DATA in found
    )
