"""Keys that verify tokens: a JWK set (RFC 7517), a public key or certificate in PEM, or a secret. Pure.

A set may have keys that are not for us: of unknown kinds, for encryption, too weak. Those are left out. A set never
brings a secret: who can read it could sign. Of several keys the `kid` of the token chooses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.api_jwk import PyJWK
from jwt.exceptions import PyJWTError

from workers.middleware.auth.tokens import Key, TokenHeader, fits

#: A set is what a provider publishes: a few keys, during a rotation twice as many.
MAX_KEYS: Final = 64
#: Without a `kid` each is tried: a bound for the work that a token can cause.
MAX_TRIES: Final = 4
#: RFC 7518 section 3.3, and section 3.2 for secrets; larger than 8192 bits would take milliseconds for each token.
_RSA_BITS: Final = range(2048, 8193)
MIN_SECRET_BYTES: Final = 32
_PUBLIC: Final = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)


class UnusableKeys(Exception):
    """There is no key in it that could verify a token."""


def parse_set(content: bytes) -> tuple[Key, ...]:
    """Return the keys of a JWK set that can verify signatures. Raises `UnusableKeys` when there is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise UnusableKeys("cannot use the key set: it is not JSON") from None
    rows = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(rows, list) or len(rows) > MAX_KEYS:
        raise UnusableKeys(f'cannot use the key set: expected "keys" with 1 to {MAX_KEYS} keys')
    keys = tuple(key for row in rows if (key := _key(row)) is not None)
    if not keys:
        raise UnusableKeys("cannot use the key set: it has no key for signatures of RSA (2048 bits or more), EC or OKP")
    return keys


def _key(row: Any) -> Key | None:
    # RFC 7517 sections 4.2 and 4.3.
    if not isinstance(row, dict) or row.get("use", "sig") != "sig":
        return None
    operations = row.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    alg, kid = row.get("alg"), row.get("kid")
    try:
        material = PyJWK(row, "EdDSA" if row.get("kty") == "OKP" else None).key
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if not _strong(material) or not isinstance(alg, str | None) or not isinstance(kid, str | None):
        return None
    return Key(kid, alg, material)


def _strong(material: Any) -> bool:
    return isinstance(material, _PUBLIC) and (
        not isinstance(material, rsa.RSAPublicKey) or material.key_size in _RSA_BITS
    )


def parse_pem(content: bytes) -> tuple[Key, ...]:
    """Return the public key in *content*, PEM: a key or a certificate. Raises `UnusableKeys`."""
    try:
        if b"BEGIN CERTIFICATE" in content:
            material: Any = x509.load_pem_x509_certificate(content).public_key()
        else:
            material = load_pem_public_key(content)
    except ValueError:
        raise UnusableKeys("cannot use the key: expected a public key or a certificate in PEM") from None
    if not _strong(material):
        raise UnusableKeys("cannot use the key: expected RSA of 2048 to 8192 bits, EC, Ed25519 or Ed448")
    return (Key(None, None, material),)


def parse_secret(content: bytes) -> tuple[Key, ...]:
    """Return the secret in *content*; a line break at its end does not count. Raises `UnusableKeys`."""
    secret = content.rstrip(b"\r\n")
    if len(secret) < MIN_SECRET_BYTES:
        raise UnusableKeys(f"cannot use the secret: expected {MIN_SECRET_BYTES} bytes or more (RFC 7518 section 3.2)")
    return (Key(None, None, secret),)


def candidates(keys: Sequence[Key], header: TokenHeader) -> list[Key]:
    """Return the keys that a token may have been signed with: those of its `kid`, or without one a few that fit."""
    found = [key for key in keys if fits(key, header.alg) and (header.kid is None or key.kid in (None, header.kid))]
    return found[:MAX_TRIES]
