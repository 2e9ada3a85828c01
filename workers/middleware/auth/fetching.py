"""Small requests of authentication to other servers: one function with the settings of a middleware bound to it.

Whatever goes wrong is `Unavailable`: authentication that cannot ask answers 503.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from velocity_edge.errors import VelocityError
from velocity_edge.http.upstreams import TlsClient
from workers.middleware.auth.document import Unavailable
from workers.proxy.client import AttemptFailed, Fetched, Resolver, fetch

#: Discovery documents and key sets have a few KiB.
MAX_BYTES: Final = 256 * 1024


class Fetch(Protocol):
    """Sends one request and returns the whole response."""

    async def __call__(
        self, url: str, *, method: str = "GET", headers: Sequence[tuple[bytes, bytes]] = (), body: bytes = b""
    ) -> Fetched:
        """Return the response, whatever its status. Raises `Unavailable` when there is none."""


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Requests with one middleware's time-out and certificate authorities."""

    timeout_s: float
    #: None: those of the system.
    ca_pem: bytes | None = None
    resolver: Resolver | None = None
    max_bytes: int = MAX_BYTES

    async def __call__(
        self, url: str, *, method: str = "GET", headers: Sequence[tuple[bytes, bytes]] = (), body: bytes = b""
    ) -> Fetched:
        """Send the request; see `Fetch`."""
        tls = TlsClient("", ca_pem=self.ca_pem) if url.startswith("https://") else None
        try:
            return await fetch(
                url,
                method=method,
                headers=headers,
                body=body,
                tls=tls,
                timeout_s=self.timeout_s,
                max_bytes=self.max_bytes,
                resolver=self.resolver,
            )
        except AttemptFailed as error:
            raise Unavailable(f"cannot fetch {_place(url)}: {error}") from None
        except (ValueError, VelocityError) as error:
            raise Unavailable(f"cannot fetch {_place(url)}: {error}") from None


async def document(fetch_: Fetch, url: str) -> bytes:
    """Return the JSON document at *url*. Raises `Unavailable`, also for another status than 200."""
    fetched = await fetch_(url, headers=((b"accept", b"application/json"),))
    if fetched.status != 200:
        raise Unavailable(f"cannot fetch {_place(url)}: status {fetched.status}")
    return fetched.body


def _place(url: str) -> str:
    return url.partition("?")[0][:200]
