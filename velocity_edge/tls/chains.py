"""Which certificate chain a client gets, and which scheme signs: the one place that decides it.

`CertStore.choose` filters all chains in this order and takes the first that is left:

    1  names      server_name exactly, else its wildcard for one label, else (or without server_name) all chains
    2  audience   chains for all clients, for the ALPN of this connection, or for a root in certificate_authorities
    3  schemes    the best scheme of the chain's key that the client offers in signature_algorithms

Chains stand in the order of the preferred schemes (ML-DSA, by profile), then in that of the configuration. So a client
that verifies ML-DSA and belongs to the audience gets the post-quantum chain, all others a classical one.

Pure: it reads a ClientHello. What a chain is, and why it has an audience, is in certs.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from velocity_edge.errors import ConfigError
from velocity_edge.pki.signatures import PQ_SCHEMES
from velocity_edge.tls import codec
from velocity_edge.tls.alerts import handshake_failure, missing_extension
from velocity_edge.tls.certs import Chain
from velocity_edge.tls.client_hello import ClientHello, certificate_authorities


class CertStore:
    """All chains of a server, in order of preference."""

    def __init__(self, chains: Sequence[Chain], preferred_schemes: Sequence[int] = PQ_SCHEMES) -> None:
        if not chains:
            raise ConfigError("cannot serve without a certificate: give one, or --self-signed")
        rank = {scheme: position for position, scheme in enumerate(preferred_schemes)}
        #: A stable sort: chains that are not ranked keep the order of the configuration.
        self.chains = tuple(sorted(chains, key=lambda c: rank.get(c.schemes[0], len(rank))))
        by_name: dict[str, list[Chain]] = {}
        for each in self.chains:
            for name in each.names:
                by_name.setdefault(name, []).append(each)
        self._by_name = {name: tuple(found) for name, found in by_name.items()}

    def choose(self, hello: ClientHello, alpn: bytes) -> tuple[Chain, int]:
        """Return the chain to present and the scheme to sign with. Raises `Alert` when the client can verify none."""
        if hello.signature_schemes is None:
            raise missing_extension("signature_algorithms")
        data = hello.extensions.get(codec.EXT_CERTIFICATE_AUTHORITIES)
        authorities = certificate_authorities(data) if data is not None else frozenset()
        for each in self._named(hello.server_name):
            if each.is_for(alpn, authorities):
                for scheme in each.schemes:
                    if scheme in hello.signature_schemes:
                        return each, scheme
        raise handshake_failure("no certificate whose signatures the client can verify")

    def _named(self, server_name: str | None) -> tuple[Chain, ...]:
        if server_name is None:
            return self.chains
        return self._by_name.get(server_name) or self._by_name.get("*." + server_name.partition(".")[2]) or self.chains
