"""Which hashes an RSASSA-PSS key may sign with, by the parameters in its certificate (RFC 4055 sections 1.2 and 3.1).

`cryptography` reads such a key without its parameters; they are read from the certificate here.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

from velocity_edge.pki import der

OID: Final = x509.ObjectIdentifier("1.2.840.113549.1.1.10")

_MGF1: Final = bytes.fromhex("2a864886f70d010108")
#: Algorithm identifier -> (name, bytes of a digest). TLS 1.3 has no other hashes for these signatures.
_DIGESTS: Final = {
    bytes.fromhex("608648016503040201"): ("sha256", 32),
    bytes.fromhex("608648016503040202"): ("sha384", 48),
    bytes.fromhex("608648016503040203"): ("sha512", 64),
}
#: Explicit tags in RSASSA-PSS-params, and what their absence means (SHA-1 and a salt of 20 bytes).
_HASH, _MASK, _SALT, _TRAILER = 0xA0, 0xA1, 0xA2, 0xA3
_DEFAULT_SALT_BYTES: Final = 20


def digests(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the names of the hashes; empty when the parameters allow none that TLS 1.3 has, or cannot be read.

    TLS 1.3 signs with a salt as long as the hash (RFC 8446 section 4.2.3), and a key's salt length is the least that it
    allows (RFC 4055 section 3.3).
    """
    try:
        parameters = _parameters(certificate.tbs_certificate_bytes)
        if parameters is None:
            return tuple(name for name, _ in _DIGESTS.values())
        found = {part[0]: der.content(part, part[0]) for part in der.sequence(parameters)}
        if len(found) != len(der.sequence(parameters)) or not found.keys() <= {_HASH, _MASK, _SALT, _TRAILER}:
            return ()
        digest, *_ = der.sequence(found[_HASH])
        mask, mask_hash = der.sequence(found[_MASK])
        mask_digest, *_ = der.sequence(mask_hash)
        salt = found.get(_SALT)
        salt_bytes = _DEFAULT_SALT_BYTES if salt is None else int.from_bytes(der.content(salt, der.INTEGER), "big")
        name, digest_bytes = _DIGESTS[der.content(digest, der.OBJECT_IDENTIFIER)]
    except (ValueError, KeyError):
        return ()
    right = mask == _identifier(_MGF1) and mask_digest == digest and salt_bytes <= digest_bytes
    return (name,) if right else ()


def _parameters(tbs: bytes) -> bytes | None:
    """Return the parameters of the public key's algorithm in a TBSCertificate (RFC 5280 section 4.1)."""
    parts = der.sequence(tbs)
    if parts[0][0] == der.EXPLICIT_0:  # the version
        parts = parts[1:]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    algorithm, _ = der.sequence(parts[5])
    _, *parameters = der.sequence(algorithm)
    return parameters[0] if parameters else None


def _identifier(oid: bytes) -> bytes:
    return bytes((der.OBJECT_IDENTIFIER, len(oid))) + oid
