"""Fields of requests and responses that pass through the gateway (RFC 9110 section 7.6). Pure.

Fields of a connection, and those that Connection names, end here in both directions. What a client says about who it
is forwarded for is replaced: the gateway is the first hop that the node can believe.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Pairs = list[tuple[str, str]]

_HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings")
)
#: Host becomes the authority, and 100 (Continue) is answered here.
_ANSWERED_HERE: Final = frozenset(("host", "expect"))
_FORWARDED: Final = frozenset(("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip"))
#: Alt-Svc is about the node's origin, which is not the one that the client asked (RFC 7838 section 3).
_OF_THE_ORIGIN: Final = frozenset(("alt-svc",))
#: "1.1" and "3": the protocol in which the message came (RFC 9110 section 7.6.3).
VIA_REQUEST: Final = "1.1 velocity-gateway"
VIA_RESPONSE: Final = "3 velocity-gateway"


def _nominated(fields: Iterable[tuple[str, str]]) -> set[str]:
    return {
        token.strip().lower() for name, value in fields if name.lower() == "connection" for token in value.split(",")
    }


def _via(fields: Pairs, own: str) -> tuple[str, str]:
    return "via", ", ".join([*(value for name, value in fields if name == "via"), own])


def request_fields(received: Iterable[tuple[str, str]], client: str, host: str, scheme: str) -> Pairs:
    """Return the fields of a request to the node. *client*: the address of who asks; *host*: what it asked for."""
    fields = [(name.lower(), value) for name, value in received]
    gone = _HOP_BY_HOP | _ANSWERED_HERE | _FORWARDED | _nominated(fields) | {"via"}
    kept = [field for field in fields if field[0] not in gone]
    if any(name == "te" and "trailers" in value.lower() for name, value in fields):
        kept.append(("te", "trailers"))
    kept += [("x-forwarded-for", client), ("x-forwarded-proto", scheme)]
    if host:
        kept.append(("x-forwarded-host", host))
    kept.append(_via(fields, VIA_REQUEST))
    return kept


def response_fields(received: Pairs) -> Pairs:
    """Return the fields of a response to the client."""
    gone = _HOP_BY_HOP | _OF_THE_ORIGIN | _nominated(received) | {"via"}
    return [*(field for field in received if field[0] not in gone), _via(received, VIA_RESPONSE)]


def looped(received: Iterable[tuple[str, str]], most: int = 8) -> bool:
    """Whether a request has passed gateways so often that it must go in a circle (RFC 9110 section 7.6.3)."""
    own = VIA_REQUEST.partition(" ")[2]
    return sum(value.count(own) for name, value in received if name.lower() == "via") >= most
