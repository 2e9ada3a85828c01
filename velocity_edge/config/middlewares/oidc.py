"""`kind: oidc`: people sign in at an OpenID provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from velocity_edge.config.middlewares.identity import ClaimsSection, RequestPath, Url, insecure_urls
from velocity_edge.config.middlewares.jwt import Signature
from velocity_edge.config.section import Need, Problem
from velocity_edge.config.upstreams import HOSTS, RESOLV_CONF
from velocity_edge.config.values import AbsolutePath, Duration, OneOrMore


class Oidc(ClaimsSection):
    """`kind: oidc`: requests need a session, which begins with a login at an OpenID provider (code flow with PKCE)."""

    kind: Literal["oidc"]
    """`oidc`"""
    issuer: Url
    """The provider, exactly as its tokens name it. Its addresses and keys are discovered."""
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    """The name by which the provider knows this client."""
    client_secret: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(default=None, repr=False)
    """Its secret, of a confidential client. `config show` does not print it; `client_secret_file` keeps it apart."""
    client_secret_file: AbsolutePath | None = None
    """A file with the secret."""
    scopes: Annotated[list[str], OneOrMore] = ["openid", "profile", "email"]
    """What is asked for; `openid` is always among them."""
    redirect_path: RequestPath = "/.velocity/oidc/callback"
    """Where the provider sends people back to, on each host with this middleware: register
    `https://<host>/.velocity/oidc/callback` there."""
    logout_path: RequestPath = "/.velocity/oidc/logout"
    """A request to it ends the session at this node, and answers with `after_logout`."""
    after_logout: Annotated[str, Field(pattern=r"^/([!-.0-\[\]-~][!-~]*)?$")] = "/"
    """Path to which a logout leads."""
    session_s: Duration = Field(default=28_800.0, alias="session")
    """How long a session lasts. It also ends when the key that sealed it is closed (`velocity-edge tickets expire`)."""
    audience: Annotated[list[str], OneOrMore] = []
    """Audiences of ID tokens that are accepted beside `client_id`, which must be among those of each token."""
    keep: Annotated[list[str], OneOrMore] = ["email", "name", "preferred_username"]
    """Claims that the session keeps for handlers and logs, beside `sub` and those of `claims` and `forward`."""
    algorithms: Annotated[list[Signature], OneOrMore] = ["RS256", "PS256", "ES256", "EdDSA"]
    """The algorithms that ID tokens may use."""
    ca: AbsolutePath | None = None
    """Certificate authorities for the provider (PEM). Unset: those of this system."""
    leeway_s: Duration = Field(default=60.0, alias="leeway")
    """How far the clocks of provider and node may differ."""
    timeout_s: Duration = Field(default=5.0, alias="timeout")
    """For each request to the provider; then the client gets a 503."""
    insecure: bool = False
    """Permit a provider without TLS that is not on this machine."""

    def problems(self) -> Iterator[Problem]:
        """Yield what cannot be combined, and sessions and paths that cannot work."""
        yield from insecure_urls({"issuer": self.issuer}, insecure=self.insecure)
        if self.client_secret is not None and self.client_secret_file is not None:
            yield ("client_secret_file",), "cannot be combined with client_secret: leave one out"
        if self.redirect_path == self.logout_path:
            yield ("logout_path",), "cannot be the same as redirect_path"
        if not 60 <= self.session_s <= 30 * 86_400:
            yield ("session",), "cannot be used: expected 1m to 30d"
        if not 0.05 <= self.timeout_s <= 60:
            yield ("timeout",), "cannot be used: expected 50ms to 1m"
        if self.leeway_s > 600:
            yield ("leeway",), "cannot be more than 10 minutes: expired tokens would stay valid"
        if "?" in self.issuer:
            yield ("issuer",), "cannot have a query (OpenID Connect Discovery, section 2)"
        if not self.algorithms:
            yield ("algorithms",), "cannot be empty"

    def needs(self) -> Iterator[Need]:
        """Yield the files with the secret and with certificate authorities."""
        for name in ("client_secret_file", "ca"):
            path = getattr(self, name)
            if path is not None:
                yield Need(path, "file", (name,))
        # Its endpoints may have names although it is an address.
        yield Need(RESOLV_CONF, "file", ("issuer",), required=False)
        yield Need(HOSTS, "file", ("issuer",), required=False)
