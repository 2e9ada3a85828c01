"""Certificate chains in files: read with errors that name the file, checked before they are served.

Expiry is a warning, not an error: a node that does not start because of an expired certificate serves no client, a node
that starts is as reachable as before, and reports it. Chains are used in velocity_edge/tls/certs.py.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from velocity_edge.errors import ConfigError
from velocity_edge.pki.private_keys import load_private_key
from velocity_edge.pki.signatures import NO_SCHEME, check_leaf, schemes_of
from velocity_edge.wire.messages import KeyedChain

#: Renewals come weeks before the end; `status` warns when it is closer than this.
EXPIRES_SOON = datetime.timedelta(days=14)
_MAX_FILE_BYTES = 1 << 20
_SERVER_PURPOSES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


class UnusableFile(ConfigError):
    """A certificate or key file that cannot be used; `path` names it."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class LoadedChain:
    """A chain that passed the checks, and warnings for the operator."""

    keyed: KeyedChain
    leaf: x509.Certificate
    warnings: tuple[str, ...]


def load_chain(
    certificate: Path, private_key: Path, *, audience: Sequence[str] | None = None, now: datetime.datetime | None = None
) -> LoadedChain:
    """Read a chain (PEM, leaf first) and its key. Raises `UnusableFile`: "cannot use FILE: why".

    The key in the result is in the form that every version of a worker reads, whatever the form in the file.
    """
    certificate_pem, private_key_pem = _read(certificate), _read(private_key)
    certificates = _certificates(certificate, certificate_pem)
    try:
        key = load_private_key(private_key_pem, str(private_key))
    except ConfigError as error:
        raise UnusableFile(private_key, str(error)) from None
    if not schemes_of(certificates[0]):
        raise UnusableFile(certificate, f"cannot use {certificate}: {NO_SCHEME}")
    if key.public_key() != certificates[0].public_key():
        others = [n for n, other in enumerate(certificates[1:], 2) if _public_key(other) == key.public_key()]
        hint = f"; it is the key of certificate {others[0]}: the leaf must be the first" if others else ""
        text = f"cannot use {private_key}: it is not the key of the first certificate in {certificate}{hint}"
        raise UnusableFile(private_key, text)
    try:
        check_leaf(str(certificate), certificates[0], key)
    except ConfigError as error:
        raise UnusableFile(certificate, str(error)) from None
    keyed = KeyedChain(
        name=str(certificate),
        certificate_pem=certificate_pem,
        private_key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        audience=None if audience is None else list(audience),
    )
    warnings = tuple(_warnings(certificate, certificates, now or datetime.datetime.now(datetime.UTC)))
    return LoadedChain(keyed, certificates[0], warnings)


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    if pem[:1] == b"\x30":
        repair = f"`openssl x509 -inform DER -in {path} -out {path.with_suffix('.new.pem')}`"
        raise UnusableFile(path, f"cannot use {path}: it is DER, not PEM; {repair} writes a file that can be used")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        # The message distinguishes a damaged chain from a file without any.
        found = (
            "a certificate in it cannot be read"
            if b"-----BEGIN CERTIFICATE-----" in pem
            else "no PEM certificate in it"
        )
        raise UnusableFile(path, f"cannot use {path}: {found}") from error


def _public_key(certificate: x509.Certificate) -> Any:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _read(path: Path) -> bytes:
    try:
        # A FIFO without a writer would block without end.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnusableFile(path, f"cannot use {path}: must be a file")
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableFile(path, f"cannot use {path}: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise UnusableFile(path, f"cannot use {path}: larger than {_MAX_FILE_BYTES} bytes, not a certificate or a key")
    return content


def _warnings(path: Path, certificates: Sequence[x509.Certificate], now: datetime.datetime) -> list[str]:
    found = []
    leaf = certificates[0]
    if now > leaf.not_valid_after_utc:
        found.append(f"{path} expired on {leaf.not_valid_after_utc:%Y-%m-%d}: clients will refuse it")
    elif now > leaf.not_valid_after_utc - EXPIRES_SOON:
        found.append(f"{path} expires on {leaf.not_valid_after_utc:%Y-%m-%d}")
    if now < leaf.not_valid_before_utc:
        found.append(f"{path} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d}: check the clock")
    found += [f"{path}: {why}: clients may refuse it" for why in _unusual(leaf)]
    for position, (below, above) in enumerate(itertools.pairwise(certificates), 1):
        try:
            below.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            found.append(f"{path}: certificate {position} is not issued by the next one: clients may refuse the chain")
    return found


def _unusual(leaf: x509.Certificate) -> Iterator[str]:
    """Yield the reasons for which RFC 5280 section 4.2.1 lets a client refuse a server's certificate."""
    try:
        extensions = {each.oid: each.value for each in leaf.extensions}
    except (ValueError, x509.DuplicateExtension):
        yield "its extensions cannot be read"
        return
    usage = extensions.get(ExtensionOID.KEY_USAGE)
    if isinstance(usage, x509.KeyUsage) and not usage.digital_signature:
        yield "its key usage lacks digitalSignature, which TLS 1.3 signs with"
    purposes = extensions.get(ExtensionOID.EXTENDED_KEY_USAGE)
    if isinstance(purposes, x509.ExtendedKeyUsage) and not {*purposes} & _SERVER_PURPOSES:
        yield "its extended key usage lacks serverAuth"
    if ExtensionOID.SUBJECT_ALTERNATIVE_NAME not in extensions:
        yield "it has no subjectAltName, and clients ignore the common name"


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 fingerprint as openssl prints it: AB:CD:..."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest().hex(":").upper()


def spki_pin(certificate: x509.Certificate) -> str:
    """Return base64(SHA-256(SubjectPublicKeyInfo)): what curl's --pinnedpubkey and Chromium's SPKI list take."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode("ascii")
