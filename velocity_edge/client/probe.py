"""Find out what a server supports: one exchange, then one handshake for each question that it leaves open.

    the exchange            group, cipher, chain, ALPN, Retry, Alt-Svc and fallback headers
    one for each group      offered alone: accepted, or refused with which alert
    a classical share only  a server that prefers post-quantum answers with HelloRetryRequest
    with the ticket         resumption

A probe opens a few connections, one after the other; it is not a load test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from velocity_edge.client.facts import HandshakeFacts, Timings
from velocity_edge.client.h3_client import connect
from velocity_edge.client.options import Options
from velocity_edge.errors import Unreachable
from velocity_edge.tls import kex
from velocity_edge.tls.client_policy import Session

#: Headers that name an alternative service or a fallback.
_FALLBACK_HEADERS = ("alt-svc", "velocity-fallback", "server")


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found."""

    url: str
    address: str
    status: int
    handshake: HandshakeFacts
    timings: Timings
    #: Group name -> "accepted", or why not.
    groups: Mapping[str, str]
    #: Whether a server that was offered a classical share asked for the post-quantum group; None: not known.
    prefers_post_quantum: bool | None
    resumes: bool
    early_data_offered: bool
    address_token: bool
    headers: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists."""
        return {
            "url": self.url,
            "address": self.address,
            "h3": self.handshake.alpn == "h3",
            "status": self.status,
            "handshake": self.handshake.as_json(),
            "timings": self.timings.as_json(),
            "groups": dict(self.groups),
            "prefers_post_quantum": self.prefers_post_quantum,
            "resumes": self.resumes,
            "early_data_offered": self.early_data_offered,
            "address_token": self.address_token,
            "headers": dict(self.headers),
        }


async def probe(url: str, options: Options | None = None) -> Probe:
    """Probe the server of *url*. Raises a `VelocityError` when the first exchange fails."""
    options = options or Options()
    async with connect(url, options) as connection:
        response = await connection.request("HEAD")
        await response.read(max_bytes=65_536)
        facts = connection.handshake
    # The server sends NEW_TOKEN and tickets when the handshake completes, so they have arrived by now.
    session = connection.sessions[-1] if connection.sessions else None
    groups = {kex.group_name(group): await _try_group(url, options, group) for group in kex.GROUPS}
    return Probe(
        url=url,
        address=connection.address,
        status=response.status,
        handshake=facts,
        timings=connection.timings,
        groups=groups,
        prefers_post_quantum=await _prefers_post_quantum(url, options),
        resumes=session is not None and await _resumes(url, options, session),
        early_data_offered=session is not None and session.early_data,
        address_token=bool(connection.tokens),
        headers={name: value for name, value in response.headers if name in _FALLBACK_HEADERS},
    )


async def _try_group(url: str, options: Options, group: int) -> str:
    alone = replace(options, groups=(group,), shares=(group,), session=None)
    try:
        async with connect(url, alone):
            return "accepted"
    except Unreachable as error:
        return str(error).partition(": ")[2] or str(error)


async def _prefers_post_quantum(url: str, options: Options) -> bool | None:
    both = replace(options, groups=(kex.X25519, kex.X25519_MLKEM768), shares=(kex.X25519,), session=None)
    try:
        async with connect(url, both) as connection:
            return connection.handshake.hello_retry_request
    except Unreachable:
        return None


async def _resumes(url: str, options: Options, session: Session) -> bool:
    try:
        async with connect(url, replace(options, session=session)) as connection:
            return connection.handshake.resumed
    except Unreachable:
        return False
