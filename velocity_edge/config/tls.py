"""`server.tls` and `server.profiles`: which certificates a node presents, and which cryptography it accepts.

Files are opened by velocity_edge/pki; the profiles become groups and cipher suites in velocity_edge/tls/policy.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import AbsolutePath, Hostname, OneOrMore

Profile = Literal["light", "balanced", "secure"]
Permission = Literal["light", "balanced", "secure", "classical"]


class Tls(Section):
    """The certificate that the node presents."""

    certificate: AbsolutePath | None = None
    """Certificate chain, PEM, leaf first. Requires `private_key`."""
    private_key: AbsolutePath | None = None
    """The private key of `certificate`, PEM. Read by the supervisor; workers never open it."""
    self_signed: bool = False
    """Generate a self-signed certificate and keep it in the state directory. For testing only."""
    names: Annotated[list[Hostname], OneOrMore] = []
    """Additional names and addresses in the self-signed certificate, besides localhost, the host name and the sites."""
    require_ech: bool = False
    """Refuse clients that do not encrypt their ClientHello. (Not implemented yet.)"""
    client_auth: Literal["none", "request", "require"] = "none"
    """Request a certificate from clients. (Not implemented yet.)"""

    def problems(self) -> Iterator[Problem]:
        """Yield what cannot be combined, or is not implemented."""
        if (self.certificate is None) != (self.private_key is None):
            present, absent = ("certificate", "private_key") if self.certificate else ("private_key", "certificate")
            yield (present,), f"cannot be used alone: needs server.tls.{absent} beside it"
        if self.self_signed and self.certificate is not None:
            yield ("self_signed",), "cannot be combined with server.tls.certificate: a node presents one of the two"
        if self.require_ech:
            yield ("require_ech",), "cannot be true yet: ECH is not implemented; leave it out or say false"
        if self.client_auth != "none":
            yield ("client_auth",), 'cannot request client certificates yet: leave it out or say "none"'


class Profiles(Section):
    """How strong the cryptography is. Each profile is an order of key exchange groups and cipher suites."""

    default: Profile = "balanced"
    """`light`: X25519MLKEM768 and AES-128 first. `balanced`: X25519MLKEM768. `secure`: SecP384r1MLKEM1024, AES-256."""
    permit: list[Permission] = ["light", "balanced", "secure", "classical"]
    """What clients may negotiate. Without `classical`, a client without post-quantum key exchange is refused."""

    def problems(self) -> Iterator[Problem]:
        """Yield a default that is not permitted."""
        if self.default not in self.permit:
            yield ("default",), f"cannot be {self.default!r}: permit has only [{', '.join(self.permit)}]"
