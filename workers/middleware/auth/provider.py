"""An OpenID provider as a worker knows it: what it says about itself, its keys, and its token endpoint.

Discovery document and keys are kept by document.py. They are shared by all revisions with the same settings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from workers.middleware.auth.document import Document, Unavailable
from workers.middleware.auth.fetching import Fetch, document
from workers.middleware.auth.key_set import UnusableKeys, parse_set
from workers.middleware.auth.login import Provider, UnusableProvider, provider_of
from workers.middleware.auth.tokens import Key

_WELL_KNOWN: Final = "/.well-known/openid-configuration"


def key_document(url: str, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> Document[tuple[Key, ...]]:
    """Return the key set that is published at *url*. *clock* in seconds."""

    async def get() -> tuple[Key, ...]:
        try:
            return parse_set(await document(fetch, url))
        except UnusableKeys as error:
            raise Unavailable(f"{url}: {error}") from None

    return Document(f"keys at {url}", get, clock)


class ProviderClient:
    """One provider. A `Resource` (workers/handlers/resources.py)."""

    def __init__(
        self, issuer: str, fetch: Fetch, *, insecure: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*insecure*: its addresses may be http over a network. *clock* in seconds."""
        self._clock = clock
        self._issuer = issuer
        self._fetch = fetch
        self._insecure = insecure
        self._found = Document(f"provider {issuer}", self._discover, clock)
        self._keys: Document[tuple[Key, ...]] | None = None
        self._keys_at = ""

    async def _discover(self) -> Provider:
        # OpenID Connect Discovery, section 4: a final slash is removed first.
        url = self._issuer.removesuffix("/") + _WELL_KNOWN
        try:
            return provider_of(await document(self._fetch, url), self._issuer, insecure=self._insecure)
        except UnusableProvider as error:
            raise Unavailable(f"cannot use the provider {self._issuer}: {error}") from None

    def peek(self) -> Provider | None:
        """Return what is known now, without waiting."""
        return self._found.peek()

    async def load(self) -> Provider:
        """Return what the provider says about itself. Raises `Unavailable`."""
        return await self._found.load()

    async def keys(self, *, again: bool = False) -> tuple[Key, ...]:
        """Return its keys; *again*: new ones if they may be asked for now. Raises `Unavailable`."""
        provider = await self.load()
        if self._keys is None or self._keys_at != provider.jwks_uri:
            if self._keys is not None:
                self._keys.close()
            self._keys, self._keys_at = key_document(provider.jwks_uri, self._fetch, self._clock), provider.jwks_uri
        return await self._keys.load(again=again)

    async def tokens(self, url: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
        """Return the answer of the token endpoint: tokens, or an error (RFC 6749 section 5). Raises `Unavailable`."""
        fetched = await self._fetch(url, method="POST", headers=headers, body=body)
        # Section 5.2: an error is a 400, or a 401; anything else is no answer to the question.
        if fetched.status not in (200, 400, 401):
            raise Unavailable(f"{url}: status {fetched.status}")
        return fetched.body

    def close(self) -> None:
        """End requests that run."""
        self._found.close()
        if self._keys is not None:
            self._keys.close()
