"""A self-signed certificate for trials: `--self-signed`.

ECDSA P-256, which every client supports, 90 days, for localhost, this host's name and the names that were asked for. It
is kept in the state directory and used again while it is valid for these names, so that a pinned fingerprint survives a
restart. The key is written with mode 0600, both files in place before they are used.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from velocity_edge.atomic_file import replace_file
from velocity_edge.errors import ConfigError
from velocity_edge.pki.files import LoadedChain, load_chain

LIFETIME = datetime.timedelta(days=90)
#: A certificate that is used again is valid for at least this long.
_LEAST_LEFT = datetime.timedelta(days=7)
_ALWAYS = ("localhost", "127.0.0.1", "::1")

Names = list[x509.GeneralName]


def self_signed(directory: Path, names: Iterable[str] = (), *, now: datetime.datetime | None = None) -> LoadedChain:
    """Return the node's self-signed chain, made now or before. *names* are host names and addresses.

    Raises `ConfigError` when the directory cannot be used or a name is not one.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    wanted = _general_names(dict.fromkeys((*_ALWAYS, *_host_names(), *names)))
    certificate, key = directory / "self-signed.pem", directory / "self-signed.key"
    kept = _kept(certificate, key, wanted, now)
    if kept is not None:
        return kept
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificate_pem, key_pem = _make(wanted, now)
        # A pair that does not match is made again, so a crash in between does no harm.
        replace_file(key, key_pem, 0o600)
        replace_file(certificate, certificate_pem, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot keep the self-signed certificate in {directory}: {error.strerror}") from None
    return load_chain(certificate, key, now=now)


def _kept(certificate: Path, key: Path, wanted: Names, now: datetime.datetime) -> LoadedChain | None:
    """Return the stored chain when it is still valid for *wanted*."""
    if not (certificate.exists() and key.exists()):
        return None
    try:
        loaded = load_chain(certificate, key, now=now)
        names = loaded.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ConfigError, x509.ExtensionNotFound, ValueError):
        return None
    valid = loaded.leaf.not_valid_before_utc <= now <= loaded.leaf.not_valid_after_utc - _LEAST_LEFT
    return loaded if valid and set(wanted) <= set(names) else None


def _host_names() -> list[str]:
    """Return this host's name, unless no certificate can have it (container ids can be in one)."""
    host = socket.gethostname().strip(".")
    return [host] if host and all(c.isascii() and (c.isalnum() or c in "-.") for c in host) else []


def _general_names(names: Iterable[str]) -> Names:
    found: Names = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
            continue
        except ValueError:
            pass
        try:
            ascii_name = name.encode("idna").decode("ascii").lower()
            if not ascii_name or any(c not in "abcdefghijklmnopqrstuvwxyz0123456789-._*" for c in ascii_name):
                raise ValueError
            found.append(x509.DNSName(ascii_name))
        except ValueError:
            raise ConfigError(f"cannot make a certificate for {name!r}: expected a host name or an address") from None
    return found


def _make(names: Sequence[x509.GeneralName], now: datetime.datetime) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "velocity-edge self-signed")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour of slack for clients whose clock is behind.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
