"""What a client accepts of a server's messages. Pure: values in, values or an `Alert` out.

The order of the messages, and what follows from them, is client.py's. trust.py decides whether a chain is trusted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from velocity_edge.pki import signatures
from velocity_edge.tls import codec, kex, schedule
from velocity_edge.tls.alerts import (
    Alert,
    AlertDescription,
    decode_error,
    illegal_parameter,
    missing_extension,
)
from velocity_edge.tls.codec_client import ServerHello
from velocity_edge.tls.kex import Group
from velocity_edge.tls.schedule import Suite
from velocity_edge.tls.vectors import EXT_PRE_SHARED_KEY, vectors, whole


def sni(server_name: str) -> str | None:
    """Return what to send in server_name: a literal address is not permitted there (RFC 6066 section 3)."""
    try:
        ipaddress.ip_address(server_name)
    except ValueError:
        return server_name
    return None


def server_hello(hello: ServerHello, offered_suites: Sequence[int], retry_suite: int | None) -> Suite:
    """Check what ServerHello and HelloRetryRequest have in common; return the suite.

    *retry_suite* is what a HelloRetryRequest chose before.
    """
    found = hello.extensions
    if found.get(codec.EXT_SUPPORTED_VERSIONS) != b"\x03\x04":
        raise Alert(AlertDescription.PROTOCOL_VERSION, "the server does not choose TLS 1.3")
    if hello.session_id or hello.compression:
        raise illegal_parameter("the server chooses a session id or a compression that was not offered")
    if hello.suite not in offered_suites or retry_suite not in (None, hello.suite):
        raise illegal_parameter(f"the server chooses suite 0x{hello.suite:04x}")
    allowed = {codec.EXT_SUPPORTED_VERSIONS, codec.EXT_KEY_SHARE}
    allowed.add(codec.EXT_COOKIE if hello.is_retry else EXT_PRE_SHARED_KEY)
    if not found.keys() <= allowed:
        raise Alert(AlertDescription.UNSUPPORTED_EXTENSION, f"extensions {sorted(found.keys() - allowed)}")
    return schedule.SUITES[hello.suite]


def key_share(data: bytes | None) -> tuple[Group, bytes]:
    """Return the group and the share of a ServerHello's key_share."""
    if data is None:
        raise missing_extension("ServerHello has no key share")
    if len(data) < 4:
        raise decode_error("key share")
    group = kex.GROUPS.get(int.from_bytes(data[:2], "big"))
    if group is None:
        raise illegal_parameter("a key share of a group that was not offered")
    return group, whole(data[2:], 2)


@dataclass(frozen=True, slots=True)
class Agreed:
    """What EncryptedExtensions settles. *alpn* is empty when none was agreed."""

    alpn: str
    early_data: bool


def encrypted_extensions(
    found: dict[int, bytes], *, alpn: Sequence[bytes], early_data: bool, resumed: bool, quic: bool
) -> Agreed:
    """Check the extensions against what was offered: *alpn*, *early_data*, and QUIC's transport parameters."""
    offered = {codec.EXT_SUPPORTED_GROUPS, codec.EXT_SERVER_NAME}
    if alpn:
        offered.add(codec.EXT_ALPN)
    if quic:
        offered.add(codec.EXT_QUIC_PARAMETERS)
    if early_data:
        offered.add(codec.EXT_EARLY_DATA)
    if not found.keys() <= offered:
        raise Alert(AlertDescription.UNSUPPORTED_EXTENSION, f"extensions {sorted(found.keys() - offered)}")
    chosen = b""
    if quic or codec.EXT_ALPN in found:
        names = list(vectors(whole(found.get(codec.EXT_ALPN, b"\0\0"), 2), 1))
        if len(names) != 1 or names[0] not in alpn:
            raise Alert(AlertDescription.NO_APPLICATION_PROTOCOL, f"the server answers ALPN with {names}")
        chosen = names[0]
    if quic and codec.EXT_QUIC_PARAMETERS not in found:
        raise missing_extension("QUIC transport parameters")
    accepted = codec.EXT_EARLY_DATA in found
    if accepted and not resumed:
        raise illegal_parameter("early data accepted without resumption")
    return Agreed(chosen.decode("ascii"), accepted)


def certificate_verify(
    leaf: x509.Certificate, scheme: int, signature: bytes, signed: bytes, offered_schemes: Sequence[int]
) -> None:
    """Check the signature of CertificateVerify over *signed* by the key of *leaf*."""
    name = signatures.scheme_name(scheme)
    if scheme not in offered_schemes:
        raise illegal_parameter(f"signature scheme {name} was not offered")
    try:
        public_key = leaf.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Alert(AlertDescription.BAD_CERTIFICATE, f"the leaf's key: {error}") from None
    if scheme not in signatures.schemes_of(leaf):
        # RFC 8446 section 4.4.3: the scheme must be one of the key in the end-entity certificate.
        raise illegal_parameter(f"{name} is not a scheme of the leaf's key")
    if not signatures.verify(public_key, scheme, signature, signed):
        raise Alert(AlertDescription.DECRYPT_ERROR, "CertificateVerify does not verify")
