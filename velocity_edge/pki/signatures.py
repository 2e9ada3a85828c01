"""TLS signature schemes (RFC 8446 section 4.2.3) and the keys that have them: who can sign with what, sign, verify.

Which scheme a connection uses is decided in velocity_edge/tls/chains.py.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa

from velocity_edge.errors import ConfigError
from velocity_edge.pki import rsa_pss

MLDSA44: Final = 0x0904
MLDSA65: Final = 0x0905
MLDSA87: Final = 0x0906
ECDSA_P256_SHA256: Final = 0x0403
PQ_SCHEMES: Final = (MLDSA65, MLDSA87, MLDSA44)

#: Clients refuse shorter RSA keys (CA/Browser Forum baseline requirements, 6.1.5).
MIN_RSA_BITS: Final = 2048

_CURVE_SCHEMES: Final = {"secp256r1": ECDSA_P256_SHA256, "secp384r1": 0x0503, "secp521r1": 0x0603}
#: scheme -> (name, key class, arguments of sign() and verify() after the data)
_PSS: Final = {
    hashes.SHA256: padding.PSS(padding.MGF1(hashes.SHA256()), 32),
    hashes.SHA384: padding.PSS(padding.MGF1(hashes.SHA384()), 48),
    hashes.SHA512: padding.PSS(padding.MGF1(hashes.SHA512()), 64),
}
_SCHEMES: Final[dict[int, tuple[str, Any, tuple[Any, ...]]]] = {
    ECDSA_P256_SHA256: ("ecdsa_secp256r1_sha256", ec.EllipticCurvePublicKey, (ec.ECDSA(hashes.SHA256()),)),
    0x0503: ("ecdsa_secp384r1_sha384", ec.EllipticCurvePublicKey, (ec.ECDSA(hashes.SHA384()),)),
    0x0603: ("ecdsa_secp521r1_sha512", ec.EllipticCurvePublicKey, (ec.ECDSA(hashes.SHA512()),)),
    0x0804: ("rsa_pss_rsae_sha256", rsa.RSAPublicKey, (_PSS[hashes.SHA256], hashes.SHA256())),
    0x0805: ("rsa_pss_rsae_sha384", rsa.RSAPublicKey, (_PSS[hashes.SHA384], hashes.SHA384())),
    0x0806: ("rsa_pss_rsae_sha512", rsa.RSAPublicKey, (_PSS[hashes.SHA512], hashes.SHA512())),
    # The same signatures, for keys that a certificate names RSASSA-PSS instead of rsaEncryption (RFC 8446 4.2.3).
    0x0809: ("rsa_pss_pss_sha256", rsa.RSAPublicKey, (_PSS[hashes.SHA256], hashes.SHA256())),
    0x080A: ("rsa_pss_pss_sha384", rsa.RSAPublicKey, (_PSS[hashes.SHA384], hashes.SHA384())),
    0x080B: ("rsa_pss_pss_sha512", rsa.RSAPublicKey, (_PSS[hashes.SHA512], hashes.SHA512())),
    0x0807: ("ed25519", ed25519.Ed25519PublicKey, ()),
    0x0808: ("ed448", ed448.Ed448PublicKey, ()),
    # ML-DSA signs with the empty context (draft-ietf-tls-mldsa), which is what sign(data) does.
    MLDSA44: ("mldsa44", mldsa.MLDSA44PublicKey, ()),
    MLDSA65: ("mldsa65", mldsa.MLDSA65PublicKey, ()),
    MLDSA87: ("mldsa87", mldsa.MLDSA87PublicKey, ()),
}
ALL_SCHEMES: Final = tuple(_SCHEMES)
NO_SCHEME: Final = "TLS 1.3 has no signatures for its key; expected ECDSA, RSA, Ed25519 or ML-DSA"
_PSS_PSS: Final = {"sha256": 0x0809, "sha384": 0x080A, "sha512": 0x080B}


def scheme_name(scheme: int) -> str:
    """Return the IANA name of a SignatureScheme, or its number in hex."""
    return _SCHEMES[scheme][0] if scheme in _SCHEMES else f"0x{scheme:04x}"


def schemes_of(leaf: x509.Certificate) -> tuple[int, ...]:
    """Return the schemes that the key of a certificate can sign with, best first; empty when TLS 1.3 has none for it.

    An RSA key signs under rsa_pss_rsae_* or rsa_pss_pss_*, as the certificate names its algorithm (RFC 8446 4.2.3).
    """
    try:
        public_key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return ()
    if isinstance(public_key, rsa.RSAPublicKey) and leaf.public_key_algorithm_oid == rsa_pss.OID:
        return tuple(_PSS_PSS[digest] for digest in rsa_pss.digests(leaf))
    return schemes_of_key(public_key)


def schemes_of_key(public_key: Any) -> tuple[int, ...]:
    """Return the schemes of a key that no certificate restricts further, best first."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        # TLS 1.3 ties the hash to the curve.
        return (_CURVE_SCHEMES[public_key.curve.name],) if public_key.curve.name in _CURVE_SCHEMES else ()
    return tuple(
        scheme
        for scheme, (_, kind, _) in _SCHEMES.items()
        if isinstance(public_key, kind) and scheme not in _PSS_PSS.values()
    )


class Signer(Protocol):
    """A private key. kem_oqs.py has one that makes ML-DSA signatures with liboqs."""

    def sign(self, scheme: int, data: bytes) -> bytes:
        """Return the signature of *data*."""


class KeySigner:
    """A private key held by `cryptography`."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def sign(self, scheme: int, data: bytes) -> bytes:
        """Return the signature of *data*."""
        signature: bytes = self._key.sign(data, *_SCHEMES[scheme][2])
        return signature


def verify(public_key: Any, scheme: int, signature: bytes, data: bytes) -> bool:
    """Whether *signature* of *data* is by *public_key*. The caller checks that *scheme* is one of `schemes_of`."""
    try:
        public_key.verify(signature, data, *_SCHEMES[scheme][2])
    except InvalidSignature:
        return False
    return True


def check_leaf(name: str, leaf: x509.Certificate, key: Any) -> tuple[int, ...]:
    """Return the schemes that *key* signs with for *leaf*. Raises `ConfigError` that names *name* when they do not fit.

    The key must be the one of the leaf, and one that TLS 1.3 can sign with and clients accept.
    """
    schemes = schemes_of(leaf)
    if not schemes:
        raise ConfigError(f"cannot use {name}: {NO_SCHEME}")
    public_key = leaf.public_key()
    if key.public_key() != public_key:
        raise ConfigError(f"cannot use {name}: the private key is not the one of the first certificate")
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size < MIN_RSA_BITS:
        raise ConfigError(
            f"cannot use {name}: clients refuse RSA keys of {public_key.key_size} bits; expected {MIN_RSA_BITS} or more"
        )
    return schemes
