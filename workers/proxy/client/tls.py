"""TLS towards upstreams by the standard library's ssl: certificate authorities, a client certificate, names, ALPN.

A worker opens no file. The system's authorities are read before the privileges are dropped (`remember_authorities`); a
client certificate, which ssl takes from a path only, is passed through an anonymous file in memory (memfd_create(2)),
which a process may open by its own /proc/self/fd without being dumpable.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Final

from velocity_edge.errors import VelocityError
from velocity_edge.http.upstreams import TlsClient

#: Contexts are kept: building one with the system's authorities takes 20 ms. Two per upstream, by ALPN.
_CONTEXTS: Final = 64

_authorities: list[str] = []


def remember_authorities() -> None:
    """Read the system's certificate authorities, once; without any, every name is refused."""
    if _authorities:
        return
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
        try:
            if path is not None:
                _authorities.append(Path(path).read_text(errors="ignore"))
                return
        except OSError:
            continue
    _authorities.append("")


@lru_cache(_CONTEXTS)
def context(tls: TlsClient, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Return the context for connections to a server. Raises `VelocityError` on unusable material."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(list(alpn))
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif tls.ca_pem is not None:
        try:
            made.load_verify_locations(cadata=tls.ca_pem.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError):
            raise VelocityError("cannot use these certificate authorities; expected certificates in PEM") from None
    else:
        remember_authorities()
        if _authorities[0]:
            made.load_verify_locations(cadata=_authorities[0])
    if tls.certificate_pem is not None:
        _load_certificate(made, tls.certificate_pem, tls.private_key_pem or b"")
    return made


def _load_certificate(made: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    fd = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        content = memoryview(certificate + b"\n" + key)
        while content:
            content = content[os.write(fd, content) :]
        made.load_cert_chain(f"/proc/self/fd/{fd}", password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not in PEM"
        raise VelocityError(
            f"cannot use this client certificate and key: {reason}; expected both in PEM, the key without a passphrase"
        ) from None
    finally:
        os.close(fd)


def ended(connection: ssl.SSLObject | None) -> bool:
    """Whether a connection that has ended was ended by the server: close_notify came, or it has no TLS.

    Otherwise anybody on the way could have cut it, and with it a body that is delimited by its end (RFC 9112 section
    9.8). asyncio reports both ends alike.
    """
    try:
        return connection is None or not connection.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


def fault(error: ssl.SSLError) -> str:
    """Return what went wrong in a handshake, in words of this side: never bytes of the peer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: {error.verify_message}"
    return f"TLS failed: {(error.reason or 'closed during the handshake').lower().replace('_', ' ')}"
