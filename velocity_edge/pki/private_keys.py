"""Private keys in PEM: which forms are read, and an error with a remedy for each form that is not.

`cryptography` reads every form but three of ML-DSA's. RFC 9881 section 6 lets a PKCS #8 key hold the 32-byte seed, the
expanded key, or both; OpenSSL 3.5 and later write both unless told otherwise, and can write either of them without its
tag. A key that has its seed is read here and its expanded half is compared; an expanded key alone cannot be used,
because the seed cannot be computed from it.

files.py checks that a key belongs to its certificate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from velocity_edge.errors import ConfigError
from velocity_edge.pki import der, mldsa_key

_SEED_BYTES: Final = 32
#: Algorithm identifier (RFC 9881 section 2) -> name, key class, bytes of an expanded key (FIPS 204 table 2).
_MLDSA: Final[dict[bytes, tuple[str, Any, int]]] = {
    bytes.fromhex("608648016503040311"): ("ML-DSA-44", mldsa.MLDSA44PrivateKey, 2560),
    bytes.fromhex("608648016503040312"): ("ML-DSA-65", mldsa.MLDSA65PrivateKey, 4032),
    bytes.fromhex("608648016503040313"): ("ML-DSA-87", mldsa.MLDSA87PrivateKey, 4896),
}


def load_private_key(pem: bytes, name: str) -> Any:
    """Return the key in *pem*. Raises `ConfigError` that names *name* and the remedy."""
    if pem[:1] == b"\x30":
        raise ConfigError(
            f"cannot use {name}: it is DER, not PEM; "
            f"`openssl pkey -inform DER -in {name} -out {_beside(name)}` writes a file that can be used"
        )
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"\nProc-Type: 4,ENCRYPTED" in pem.replace(b"\r", b""):
        raise ConfigError(
            f"cannot use {name}: not an unencrypted PEM private key: it is encrypted; "
            f"`openssl pkey -in {name} -out {_beside(name)}` asks for the passphrase and writes a file that can be used"
        )
    found = _mldsa(pem)
    if found is not None:
        return _from_seed(*found, name)
    try:
        return load_pem_private_key(pem, password=None)
    except UnsupportedAlgorithm:
        raise ConfigError(
            f"cannot use {name}: TLS 1.3 has no signatures for its key; expected ECDSA, RSA, Ed25519 or ML-DSA"
        ) from None
    except (ValueError, TypeError):
        # The library's message may quote the key.
        raise ConfigError(f"cannot use {name}: not an unencrypted PEM private key") from None


def _mldsa(pem: bytes) -> tuple[bytes, bytes] | None:
    """Return (algorithm, content of the private key) of an ML-DSA key; None for everything else."""
    try:
        key = der.pem_block(pem, b"PRIVATE KEY")
        if key is None:
            return None
        _, algorithm, private, *_ = der.sequence(key)
        identifier, *_ = der.sequence(algorithm)
        oid = der.content(identifier, der.OBJECT_IDENTIFIER)
        return (oid, der.content(private, der.OCTET_STRING)) if oid in _MLDSA else None
    except ValueError:
        return None


def _from_seed(oid: bytes, private: bytes, name: str) -> Any:
    algorithm, kind, expanded_bytes = _MLDSA[oid]
    try:
        seed, expanded = _parts(private, expanded_bytes)
    except ValueError:
        raise ConfigError(f"cannot use {name}: not an {algorithm} private key as RFC 9881 section 6 has it") from None
    if seed is None:
        raise ConfigError(
            f"cannot use {name}: it holds the expanded {algorithm} key without its seed; make another key, and a "
            f"certificate for it: `openssl genpkey -algorithm {algorithm} "
            f"-provparam ml-dsa.output_formats=seed-only -out {_beside(name)}`"
        )
    key = kind.from_seed_bytes(seed)
    if expanded is not None and mldsa_key.expand(algorithm, seed)[1] != expanded:
        raise ConfigError(
            f"cannot use {name}: the seed and the expanded {algorithm} key in it do not match: it is damaged"
        )
    return key


def _parts(private: bytes, expanded_bytes: int) -> tuple[bytes | None, bytes | None]:
    """Return (seed, expanded key) of one of the three forms, tagged or bare. Raises ValueError for any other."""
    if len(private) == _SEED_BYTES:
        return private, None
    if len(private) == expanded_bytes:
        return None, private
    tag, value = der.element(private)
    if tag == der.CONTEXT_0 and len(value) == _SEED_BYTES:
        return value, None
    if tag == der.OCTET_STRING and len(value) >= expanded_bytes:
        # OpenSSL's "oqskeypair" appends the public key.
        return None, value[:expanded_bytes]
    if tag == der.SEQUENCE:
        seed, expanded = (der.content(part, der.OCTET_STRING) for part in der.sequence(private))
        if len(seed) == _SEED_BYTES and len(expanded) == expanded_bytes:
            return seed, expanded
    raise ValueError("none of the forms")


def _beside(name: str) -> str:
    """Return a file name for the converted key, so that no printed command overwrites the only copy."""
    return str(Path(name).with_suffix(".new.pem"))
