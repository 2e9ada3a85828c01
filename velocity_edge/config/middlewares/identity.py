"""What kinds of authentication have alike: required and forwarded claims, and addresses of other servers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection
from velocity_edge.config.section import Need, Problem
from velocity_edge.config.upstreams import HOSTS, RESOLV_CONF
from velocity_edge.config.values import Written

#: RFC 9110 section 5.1: a field name is a token.
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Fields by which a message is framed or routed: a claim in one of them could split or divert requests. And those that
#: this node sets itself.
_NOT_FOR_CLAIMS: Final = frozenset(
    [
        "connection",
        "content-length",
        "content-encoding",
        "content-type",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ]
)


def field_name(value: str) -> str:
    """Return a name of a field that may carry a claim, in lower case. Raises ValueError."""
    if not _FIELD_NAME.fullmatch(value) or len(value) > 128:
        raise ValueError(f"cannot use {value!r}: must be a field name such as x-user")
    if value.lower() in _NOT_FOR_CLAIMS:
        raise ValueError(f"cannot use {value!r}: this field frames or routes a request; expected one such as x-user")
    return value.lower()


def is_loopback(host: str | None) -> bool:
    """Return whether *host* is this machine: what is sent to it passes no network."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_permitted(url: str, *, insecure: bool) -> bool:
    """Return whether secrets and keys may be exchanged with *url*: https, or http to this machine or by *insecure*."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None or parts.port == 0:
            return False
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (insecure or is_loopback(parts.hostname)))


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[!-~]+", value) or "#" in value or not is_permitted(value, insecure=True):
        raise ValueError(f"cannot use {value!r}: must be an address such as https://auth.example.com")
    return value


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [value]


#: As it was written: an issuer is compared character by character.
Url = Annotated[str, AfterValidator(_url), Written("address of a server")]
FieldName = Annotated[str, AfterValidator(field_name), Written("name of a field")]
#: Name of a cookie: a token without what has a meaning here.
CookieName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
RequestPath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]{1,255}$"), Written("path of requests")]
Permitted = Annotated[list[str | int | bool], BeforeValidator(_one_or_more)]


class Authentication(MiddlewareSection):
    """A middleware that establishes who the client is."""

    layer: ClassVar[Layer] = Layer.AUTHENTICATION


class ClaimsSection(Authentication):
    """A middleware that learns claims about the client."""

    claims: dict[str, Permitted] = {}
    """Claims that a client must have, with the permitted values: `groups: [admin, staff]`. A claim that is a list, or a
    scope, needs one of them; an empty list permits every value. A name may be a path: `realm_access.roles`. Others get
    a 403."""
    forward: dict[str, FieldName] = {}
    """Claims that upstreams get, and in which field: `email: x-user-email`. A field of that name from the client is
    removed, on every route of the node."""

    def asserts(self) -> Sequence[str]:
        """Return the fields with claims."""
        return list(self.forward.values())


def names_of(key: str, url: str | None) -> Iterator[Need]:
    """Yield what resolving the name in *url* needs, the value of *key*."""
    if url is not None and not is_address(urlsplit(url).hostname):
        yield Need(RESOLV_CONF, "file", (key,), required=False)
        yield Need(HOSTS, "file", (key,), required=False)


def is_address(host: str | None) -> bool:
    """Return whether *host* is no name."""
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return True


def insecure_urls(urls: Mapping[str, str | None], *, insecure: bool) -> Iterator[Problem]:
    """Yield the keys whose address is reached without TLS over a network."""
    for key, url in urls.items():
        if url is not None and not is_permitted(url, insecure=insecure):
            yield (
                (key,),
                f"cannot use {url!r}: who is on the way could sign in as anybody; expected https, or `insecure: true`",
            )
