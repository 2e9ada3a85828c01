"""Keys and tokens of tests: made with PyJWT and cryptography, as an issuer would."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.api_jws import PyJWS

ISSUER: Final = "https://issuer.test"
AUDIENCE: Final = "edge"
NOW_S: Final = 1_800_000_000.0
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def private_key(kind: str) -> PrivateKey:
    """Return the key of this kind: RSA, RSA-1024, EC, EC-384 or OKP. The same in a whole run."""
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, 1024 if kind == "RSA-1024" else 2048)
    if kind.startswith("EC"):
        return ec.generate_private_key(ec.SECP384R1() if kind == "EC-384" else ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(kind: str) -> bytes:
    """Return the public key in PEM."""
    return private_key(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(kind: str, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the public key as a JWK."""
    public: Any = private_key(kind).public_key()
    maker: Any = {"R": RSAAlgorithm, "E": ECAlgorithm, "O": OKPAlgorithm}[kind[0]]
    found: dict[str, Any] = json.loads(maker.to_jwk(public))
    found.pop("key_ops", None)
    return {**found, **({"kid": kid} if kid else {}), **more}


def key_set(*rows: dict[str, Any]) -> bytes:
    """Return a JWK set."""
    return json.dumps({"keys": rows}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return claims that are valid at NOW_S; None removes one."""
    base = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": int(NOW_S), "exp": int(NOW_S) + 300}
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def token(
    kind: str = "EC", alg: str = "ES256", kid: str | None = "k1", header: dict[str, Any] | None = None, **changes: Any
) -> bytes:
    """Return a token that the key of this *kind* signed; *changes* of its claims."""
    headers = {**({"kid": kid} if kid else {}), **(header or {})}
    payload = json.dumps(claims(**changes)).encode()
    return PyJWS().encode(payload, private_key(kind), alg, headers).encode()
