"""Verifies JSON Web Tokens (RFC 7519, RFC 8725): algorithm, key, signature, and the claims about issuer and time.

PyJWT parses and verifies the signature; everything that an attacker could choose is decided before: the algorithm must
be one of those allowed, and the key must be of the kind that this algorithm uses, so that a public key is never taken
for the secret of an HMAC. `none` is in no list. Times are checked here, because the caller passes the clock.

This file is pure. Which keys there are is decided in key_set.py.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

#: Larger ones are refused before they are parsed. A header section is bounded by 64 KiB anyway.
MAX_TOKEN_BYTES: Final = 32_768
_CURVES: Final[Mapping[str, type[ec.EllipticCurve]]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}
_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_HMAC: Final = frozenset(("HS256", "HS384", "HS512"))
_JWS: Final = PyJWS()


class InvalidToken(Exception):
    """The token proves nothing. The text is for the client (`error_description` of RFC 6750) and quotes none of it."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that verifies: a public key, or the bytes of a secret. `alg`: the only algorithm that it is for, if any."""

    kid: str | None
    alg: str | None
    material: Any


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token must say. An empty `audiences`: any."""

    algorithms: frozenset[str]
    issuer: str | None
    audiences: frozenset[str]
    leeway_s: float


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """Which key a token asks for."""

    alg: str
    kid: str | None


def digest(token: bytes) -> bytes:
    """Return what a verified token is remembered by."""
    return hashlib.sha256(token).digest()


def header_of(token: bytes, rules: Rules) -> TokenHeader:
    """Return the header of *token*. Nothing of it is verified but that the rules allow it. Raises `InvalidToken`."""
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken("the token is too long")
    try:
        header = _JWS.get_unverified_header(token)
    except (PyJWTError, ValueError, RecursionError):
        raise InvalidToken("the token is not well-formed") from None
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str) or alg not in rules.algorithms:
        raise InvalidToken("the algorithm of the token is not allowed")
    # RFC 7515 section 4.1.11: what is critical must be understood, and nothing is.
    if "crit" in header or "b64" in header:
        raise InvalidToken("the token has a critical header parameter")
    return TokenHeader(alg, kid if isinstance(kid, str) else None)


def fits(key: Key, alg: str) -> bool:
    """Return whether *key* is of the kind that *alg* uses (RFC 8725 section 3.1)."""
    if key.alg not in (None, alg):
        return False
    material = key.material
    if alg in _RSA:
        return isinstance(material, rsa.RSAPublicKey)
    if alg in _CURVES:
        return isinstance(material, ec.EllipticCurvePublicKey) and isinstance(material.curve, _CURVES[alg])
    if alg == "EdDSA":
        return isinstance(material, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    return alg in _HMAC and isinstance(material, bytes)


def verify(token: bytes, header: TokenHeader, keys: Sequence[Key], rules: Rules, now_s: float) -> dict[str, Any]:
    """Return the claims of *token*, whose signature one of *keys* verifies. Raises `InvalidToken`.

    *now_s*: seconds since 1970.
    """
    payload = _verified(token, header.alg, keys)
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        raise InvalidToken("the token has no claims") from None
    if not isinstance(claims, dict):
        raise InvalidToken("the token has no claims")
    check(claims, rules, now_s)
    return claims


def _verified(token: bytes, alg: str, keys: Sequence[Key]) -> bytes:
    for key in keys:
        if not fits(key, alg):
            continue
        try:
            payload: bytes = _JWS.decode_complete(token, key=key.material, algorithms=[alg])["payload"]
        except (PyJWTError, ValueError, TypeError):
            continue
        return payload
    raise InvalidToken("the signature of the token cannot be verified")


def check(claims: Mapping[str, Any], rules: Rules, now_s: float) -> None:
    """Raise `InvalidToken` unless the claims are for this audience, from this issuer, and valid now."""
    check_times(claims, rules, now_s)
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise InvalidToken("the token is from another issuer")
    if rules.audiences:
        audience = claims.get("aud")
        found = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(one, str) and one in rules.audiences for one in found):
            raise InvalidToken("the token is for another audience")


def check_times(claims: Mapping[str, Any], rules: Rules, now_s: float) -> None:
    """Raise `InvalidToken` unless *now_s* is in the life of the token. Without an end there is no valid token."""
    if now_s >= _time(claims, "exp") + rules.leeway_s:
        raise InvalidToken("the token has expired")
    for name in ("nbf", "iat"):
        if name in claims and now_s < _time(claims, name) - rules.leeway_s:
            raise InvalidToken("the token is not valid yet")


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    # NaN is greater than nothing, and 10^400 is no float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53 or math.isnan(value):
        raise InvalidToken(f"the token has no usable {name}")
    return float(value)
