"""What a connection negotiated, by the names of the specifications, and how long it took. Plain values, for JSON."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from velocity_edge.pki import signatures
from velocity_edge.tls import kex, schedule
from velocity_edge.tls.client import ClientHandshake

#: Signature algorithms of certificates for which `cryptography` has no name, by OID.
_SIGNATURE_NAMES = {
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """One certificate of the chain."""

    subject: str
    issuer: str
    names: list[str]
    not_after: str
    expires_in_days: int
    signed_with: str
    sha256: str


@dataclass(frozen=True, slots=True)
class HandshakeFacts:
    """What was negotiated."""

    alpn: str
    group: str
    post_quantum: bool
    cipher: str
    #: None when resumed: the server sends no certificate then.
    signature: str | None
    resumed: bool
    early_data: bool
    hello_retry_request: bool
    retry: bool
    certificates: list[CertificateFacts]

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists."""
        return asdict(self)


@dataclass(slots=True)
class Timings:
    """Durations in seconds: of each part, and of everything so far (`total_s`)."""

    resolve_s: float = 0.0
    handshake_s: float = 0.0
    first_byte_s: float = 0.0
    total_s: float = 0.0

    def as_json(self) -> dict[str, float]:
        """Return a plain dictionary."""
        return asdict(self)


def handshake_facts(handshake: ClientHandshake, *, retried: bool) -> HandshakeFacts:
    """Return what a completed handshake negotiated. *retried*: the server sent a Retry packet."""
    group = kex.GROUPS.get(handshake.group)
    return HandshakeFacts(
        alpn=handshake.alpn,
        group=kex.group_name(handshake.group),
        post_quantum=group is not None and group.post_quantum,
        cipher=schedule.SUITE_NAMES.get(handshake.cipher_suite, f"0x{handshake.cipher_suite:04x}"),
        signature=None if handshake.resumed else signatures.scheme_name(handshake.signature_scheme),
        resumed=handshake.resumed,
        early_data=handshake.early_data_accepted,
        hello_retry_request=handshake.retried,
        retry=retried,
        certificates=[certificate_facts(certificate) for certificate in handshake.certificates],
    )


def certificate_facts(certificate: x509.Certificate) -> CertificateFacts:
    """Return the facts of one certificate."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))]
    except (x509.ExtensionNotFound, ValueError):
        names = []
    oid = certificate.signature_algorithm_oid
    not_after = certificate.not_valid_after_utc
    return CertificateFacts(
        subject=_common_name(certificate.subject),
        issuer=_common_name(certificate.issuer),
        names=names,
        not_after=not_after.isoformat(),
        expires_in_days=(not_after - datetime.datetime.now(datetime.UTC)).days,
        signed_with=_SIGNATURE_NAMES.get(oid.dotted_string, oid._name),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()
