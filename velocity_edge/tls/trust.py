"""Whether a client trusts a server's chain: dates, name, and a path to a root, by OpenSSL.

The check itself is aioquic's `verify_certificate` (pyOpenSSL and service_identity; its OpenSSL verifies ML-DSA chains
too). This file has the roots that a client can be told to trust, and the translation of errors into alerts.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aioquic import tls
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from velocity_edge.errors import ConfigError
from velocity_edge.tls.alerts import Alert, AlertDescription


@dataclass(frozen=True, slots=True)
class Trust:
    """What a client accepts. The default is the roots of this system."""

    #: PEM roots; None: the system's, or certifi's where the system has none.
    roots_pem: bytes | None = None
    #: Accept any chain: to inspect a server, never to use its data.
    insecure: bool = False
    #: SHA-256 of the leaf's public key (SubjectPublicKeyInfo): only this one is accepted, whoever issued it.
    pin: bytes = b""

    def check(self, certificates: Sequence[x509.Certificate], server_name: str) -> None:
        """Raise `Alert` when the chain (leaf first) is not trusted for *server_name*."""
        if self.pin:
            spki = certificates[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            if not hmac.compare_digest(hashlib.sha256(spki).digest(), self.pin):
                raise Alert(AlertDescription.BAD_CERTIFICATE, "the certificate's key is not the pinned one")
            return
        if self.insecure:
            return
        try:
            tls.verify_certificate(
                certificate=certificates[0],
                chain=list(certificates[1:]),
                server_name=server_name,
                cadata=self.roots_pem,
                cafile=system_roots() if self.roots_pem is None else None,
            )
        except tls.Alert as alert:
            raise Alert(
                AlertDescription(int(alert.description)), str(alert) or "the certificate is not valid"
            ) from None
        except (crypto.Error, ValueError) as error:
            raise Alert(AlertDescription.BAD_CERTIFICATE, f"the chain cannot be checked: {error}") from None


def system_roots() -> str | None:
    """Return the file of the system's roots; None when OpenSSL's default place has none (then certifi's are used)."""
    path = ssl.get_default_verify_paths().cafile
    if path is None and Path("/etc/ssl/certs/ca-certificates.crt").exists():
        path = "/etc/ssl/certs/ca-certificates.crt"
    return path


def trust_file(path: Path) -> Trust:
    """Return a `Trust` in the roots of a PEM file, or raise `ConfigError`."""
    try:
        pem = path.read_bytes()
        x509.load_pem_x509_certificates(pem)
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"cannot use {path}: no PEM certificate in it") from None
    return Trust(roots_pem=pem)
