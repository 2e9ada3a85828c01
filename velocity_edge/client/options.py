"""How the client connects: the parts of a URL, and what the handshake offers and trusts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from velocity_edge.errors import CannotDo
from velocity_edge.tls.client_policy import ClientPolicy, Session
from velocity_edge.tls.trust import Trust, trust_file


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect. The defaults suit a public site."""

    insecure: bool = False
    #: SHA-256 of the server's public key, in place of authorities and names.
    pin: bytes = b""
    cafile: Path | None = None
    #: Group ids to offer, in order; None: all, hybrids first.
    groups: tuple[int, ...] | None = None
    #: Groups whose shares are sent at once; None: X25519MLKEM768 and X25519 as far as they are offered.
    shares: tuple[int, ...] | None = None
    #: Connect to this (host or address, port) instead of the one in the URL.
    resolve: tuple[str, int] | None = None
    timeout_s: float = 10.0
    alpn: tuple[str, ...] = ("h3",)
    session: Session | None = None
    early_data: bool = False
    token: bytes = b""


def split_url(url: str) -> SplitResult:
    """Return the parts of an https URL, or raise `CannotDo`."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise CannotDo(f"cannot use {url!r}: {error}") from None
    if parts.scheme != "https" or not parts.hostname:
        raise CannotDo(f"cannot use {url!r}: expected https://host[:port]/path")
    return parts


def client_policy(parts: SplitResult, options: Options) -> ClientPolicy:
    """Return what the handshake offers and trusts. Raises `ConfigError` for an unusable CA file."""
    trust = trust_file(options.cafile) if options.cafile is not None else Trust()
    if options.insecure:
        trust = Trust(insecure=True)
    if options.pin:
        trust = Trust(pin=options.pin)
    more: dict[str, Any] = {}
    if options.groups is not None:
        more["groups"] = options.groups
    offered = options.groups or ClientPolicy("").groups
    shares = options.shares if options.shares is not None else ClientPolicy("").shares
    return ClientPolicy(
        server_name=parts.hostname or "",
        shares=tuple(group for group in shares if group in offered) or offered[:1],
        alpn=tuple(name.encode("ascii") for name in options.alpn),
        trust=trust,
        session=options.session,
        early_data=options.early_data,
        **more,
    )
