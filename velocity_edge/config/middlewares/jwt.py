"""`kind: jwt`: bearer tokens that this node verifies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from velocity_edge.config.middlewares.identity import ClaimsSection, CookieName, FieldName, Url, insecure_urls, names_of
from velocity_edge.config.section import Need, Problem
from velocity_edge.config.values import AbsolutePath, Duration, OneOrMore

Signature = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Algorithm = Literal[Signature, "HS256", "HS384", "HS512"]
_SOURCES: Final = ("jwks_url", "jwks", "key", "secret_file")


class Jwt(ClaimsSection):
    """`kind: jwt`: requests need a JSON Web Token (RFC 7519) that is valid now."""

    kind: Literal["jwt"]
    """`jwt`"""
    issuer: str | None = None
    """The `iss` that tokens must have. Unset: any, if one of these keys verifies them."""
    audience: Annotated[list[str], OneOrMore] = []
    """The `aud` that tokens must have, one of these."""
    jwks_url: Url | None = None
    """Where the issuer publishes its keys (RFC 7517). They are fetched when needed, again after 5 minutes, and for an
    unknown `kid`, then at most every 10 seconds."""
    ca: AbsolutePath | None = None
    """Certificate authorities for `jwks_url` (PEM). Unset: those of this system."""
    jwks: AbsolutePath | None = None
    """A file with a key set, in place of `jwks_url`."""
    key: AbsolutePath | None = None
    """A file with one public key or certificate (PEM), in place of `jwks_url`."""
    secret_file: AbsolutePath | None = None
    """A file with the secret of HS256, HS384 or HS512, 32 bytes or more, in place of `jwks_url`. Whoever verifies with
    it can sign, too."""
    algorithms: Annotated[list[Algorithm], OneOrMore] = ["RS256", "PS256", "ES256", "EdDSA"]
    """The algorithms that tokens may use. HS256 and its kind only with `secret_file`, and then only those."""
    header: FieldName = "authorization"
    """The field with the token, after `Bearer`."""
    cookie: CookieName | None = None
    """A cookie that may have the token, when the field is absent."""
    query: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """A parameter of the query that may have the token, when the field is absent. Queries are in logs."""
    leeway_s: Duration = Field(default=30.0, alias="leeway")
    """How far clocks may differ."""
    hide_credentials: bool = False
    """Do not pass the field with the token on to upstreams."""
    insecure: bool = False
    """Permit a `jwks_url` without TLS that is not on this machine."""

    def problems(self) -> Iterator[Problem]:
        """Yield keys from nowhere or from several places, and algorithms that do not fit to them."""
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            yield (
                ("kind",),
                f"cannot verify tokens with {len(given)} sources of keys: expected one of {', '.join(_SOURCES)}",
            )
            return
        yield from insecure_urls({"jwks_url": self.jwks_url}, insecure=self.insecure)
        with_secret = self.secret_file is not None
        wrong = [name for name in self.algorithms if name.startswith("HS") != with_secret]
        if wrong or not self.algorithms:
            expected = "HS256, HS384 or HS512" if with_secret else "those of signatures, such as ES256"
            yield ("algorithms",), f"cannot use {', '.join(wrong) or 'none'} with {given[0]}: expected {expected}"
        if self.leeway_s > 600:
            yield ("leeway",), "cannot be more than 10 minutes: expired tokens would stay valid"

    def needs(self) -> Iterator[Need]:
        """Yield the files with keys."""
        for name in ("ca", "jwks", "key", "secret_file"):
            path = getattr(self, name)
            if path is not None:
                yield Need(path, "file", (name,))
        yield from names_of("jwks_url", self.jwks_url)
