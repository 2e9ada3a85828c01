"""Certificate chains in files: read with errors that name the file, checked before anybody serves them.

Expired is a warning, not an error: a node that refuses to start over an expired certificate serves nobody, a node that
starts is as reachable as before, and says so. What a chain is used for is velocity_edge/quic/certs.py's.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from velocity_edge.errors import ConfigError
from velocity_edge.messages import KeyedChain
from velocity_edge.quic import certs

#: Renewals come weeks before the end; what is closer than this deserves a word in `status`.
EXPIRES_SOON = datetime.timedelta(days=14)
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LoadedChain:
    """A chain that passed the checks, and what an operator should be told about it."""

    keyed: KeyedChain
    leaf: x509.Certificate
    warnings: tuple[str, ...]


def load_chain(
    certificate: Path, private_key: Path, *, audience: Sequence[str] | None = None, now: datetime.datetime | None = None
) -> LoadedChain:
    """Read a chain (PEM, leaf first) and its key. Raises `ConfigError`: "cannot use FILE: why"."""
    certificate_pem, private_key_pem = _read(certificate), _read(private_key)
    try:
        certificates = x509.load_pem_x509_certificates(certificate_pem)
    except ValueError:
        raise ConfigError(f"cannot use {certificate}: no PEM certificate in it") from None
    keyed = KeyedChain(
        name=str(certificate),
        certificate_pem=certificate_pem,
        private_key_pem=private_key_pem,
        audience=None if audience is None else list(audience),
    )
    key = certs.private_key(private_key_pem, str(private_key))
    if key.public_key() != certificates[0].public_key():
        raise ConfigError(f"cannot use {private_key}: it is not the key of the first certificate in {certificate}")
    certs.chain(str(certificate), certificates, key, audience)
    warnings = tuple(_warnings(certificate, certificates, now or datetime.datetime.now(datetime.UTC)))
    return LoadedChain(keyed, certificates[0], warnings)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"cannot use {path}: larger than {_MAX_FILE_BYTES} bytes, not a certificate or a key")
    return content


def _warnings(path: Path, certificates: Sequence[x509.Certificate], now: datetime.datetime) -> list[str]:
    found = []
    leaf = certificates[0]
    if now > leaf.not_valid_after_utc:
        found.append(f"{path} expired on {leaf.not_valid_after_utc:%Y-%m-%d}: clients will refuse it")
    elif now > leaf.not_valid_after_utc - EXPIRES_SOON:
        found.append(f"{path} expires on {leaf.not_valid_after_utc:%Y-%m-%d}")
    if now < leaf.not_valid_before_utc:
        found.append(f"{path} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d}: is the clock right?")
    for position, (below, above) in enumerate(itertools.pairwise(certificates), 1):
        try:
            below.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature):
            found.append(f"{path}: certificate {position} is not issued by the next one: clients may refuse the chain")
    return found


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 fingerprint as openssl prints it: AB:CD:..."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest().hex(":").upper()


def spki_pin(certificate: x509.Certificate) -> str:
    """Return base64(SHA-256(SubjectPublicKeyInfo)): what curl's --pinnedpubkey and Chromium's SPKI list take."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode("ascii")
