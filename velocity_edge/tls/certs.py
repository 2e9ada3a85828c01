"""A server's certificate chains, ready to be presented: what each can sign with, for which names, to which clients.

A chain carries its **audience**. curl and Go offer ML-DSA signatures by default while they trust only public roots, so
a choice by `signature_algorithms` alone would show them a chain of a private root that they cannot verify. A chain with
an audience is only for connections whose ALPN is in it, or for clients that name its root in certificate_authorities.

Which chain a client gets is decided in chains.py. Certificates come from pki/.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from velocity_edge.errors import ConfigError
from velocity_edge.pki.private_keys import load_private_key
from velocity_edge.pki.signatures import PQ_SCHEMES, KeySigner, Signer, check_leaf
from velocity_edge.tls import codec
from velocity_edge.wire.messages import KeyedChain


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that can be presented: certificates leaf first, the key, and the clients that it is for."""

    name: str
    certificates: tuple[x509.Certificate, ...]
    signer: Signer = field(repr=False)
    #: ALPNs that may see it; None: all clients.
    audience: frozenset[bytes] | None
    #: Signature schemes of the key, best first.
    schemes: tuple[int, ...]
    #: DNS names in lower case, wildcards as "*.example.com".
    names: frozenset[str]
    #: DER names of all issuers in the chain: what a client's certificate_authorities may mention.
    issuers: frozenset[bytes] = field(repr=False)
    #: The Certificate message, constant for the chain.
    message: bytes = field(repr=False)

    @property
    def post_quantum(self) -> bool:
        """Whether its key is an ML-DSA key."""
        return self.schemes[0] in PQ_SCHEMES

    @property
    def not_after(self) -> datetime.datetime:
        """When the leaf expires."""
        return self.certificates[0].not_valid_after_utc

    def is_for(self, alpn: bytes, authorities: frozenset[bytes]) -> bool:
        """Whether a connection with this ALPN, or a client that names these roots, is in the audience."""
        return self.audience is None or alpn in self.audience or not self.issuers.isdisjoint(authorities)


def chain(
    name: str,
    certificates: Sequence[x509.Certificate],
    key: Any,
    audience: Sequence[str] | None = None,
    make_signer: Callable[[Any], Signer] = KeySigner,
) -> Chain:
    """Build a `Chain`, or raise `ConfigError` when key and leaf do not fit or the key cannot sign in TLS 1.3."""
    leaf = certificates[0]
    schemes = check_leaf(name, leaf, key)
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = frozenset(dns.lower().rstrip(".") for dns in san.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = frozenset()
    return Chain(
        name=name,
        certificates=tuple(certificates),
        signer=make_signer(key),
        audience=None if audience is None else frozenset(alpn.encode("ascii") for alpn in audience),
        schemes=schemes,
        names=names,
        issuers=frozenset(c.issuer.public_bytes() for c in certificates),
        message=codec.certificate([c.public_bytes(Encoding.DER) for c in certificates]),
    )


def chain_from_pem(keyed: KeyedChain, make_signer: Callable[[Any], Signer] = KeySigner) -> Chain:
    """Build a `Chain` from what the supervisor sent; `ConfigError` names it. *make_signer* takes the private key."""
    try:
        certificates = x509.load_pem_x509_certificates(keyed.certificate_pem)
    except ValueError as error:
        raise ConfigError(f"cannot use {keyed.name}: not a PEM certificate chain: {error}") from None
    key = load_private_key(keyed.private_key_pem, keyed.name)
    return chain(keyed.name, certificates, key, keyed.audience, make_signer)
