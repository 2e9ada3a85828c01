"""A document that another server publishes, such as its keys: fetched when it is needed, and kept.

At most one request for it runs at a time, however many wait; after it, successful or not, none follows for `pause_s`.
A document that is older than `fresh_s` is fetched again in the background while it is used, and not used any more when
it is older than `stale_s`: so a provider that is down for a while does not matter, and a key that it withdrew does not
live on for long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

FRESH_S: Final = 300.0
STALE_S: Final = 3600.0
#: An unknown key id can make a worker ask at most this often, whoever invents them.
PAUSE_S: Final = 10.0
#: After a failure: short, because nobody can log in meanwhile.
PAUSE_AFTER_FAILURE_S: Final = 2.0


class Unavailable(Exception):
    """The document cannot be had now. The text says why, for the log."""


class Document(Generic[T]):
    """One document of one server."""

    def __init__(self, what: str, get: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> None:
        """*what* names it in the log. *get* fetches and parses it, and raises `Unavailable`. *clock* in seconds."""
        self._what = what
        self._get = get
        self._clock = clock
        self._found: T | None = None
        self._found_s = 0.0
        self._pause_until_s = float("-inf")
        self._failure = ""
        self._running: asyncio.Task[None] | None = None

    def peek(self) -> T | None:
        """Return the document if it may be used now, without waiting; refresh it in the background when it is due."""
        if self._found is None:
            return None
        age_s = self._clock() - self._found_s
        if age_s >= FRESH_S and self._may_ask:
            self._begin()
        return self._found if age_s < STALE_S else None

    async def load(self, *, again: bool = False) -> T:
        """Return the document; wait for it when there is none, or (*again*) when a new one may be asked for.

        Raises `Unavailable`.
        """
        if again or self.peek() is None:
            if self._running is None and self._may_ask:
                self._begin()
            if self._running is not None:
                # A client that leaves does not end the request for the others.
                await asyncio.shield(self._running)
        found = self.peek()
        if found is None:
            raise Unavailable(self._failure or f"{self._what}: not fetched yet")
        return found

    def close(self) -> None:
        """End a request that runs."""
        if self._running is not None:
            self._running.cancel()

    @property
    def _may_ask(self) -> bool:
        return self._running is None and self._clock() >= self._pause_until_s

    def _begin(self) -> None:
        self._running = asyncio.get_running_loop().create_task(self._fetch())

    async def _fetch(self) -> None:
        """Fetch it once. Raises nothing but CancelledError."""
        try:
            self._found = await self._get()
            self._found_s = self._clock()
            self._pause_until_s = self._found_s + PAUSE_S
            if self._failure:
                log.warning("%s: available again", self._what)
            self._failure = ""
        except Unavailable as error:
            self._pause_until_s = self._clock() + PAUSE_AFTER_FAILURE_S
            if not self._failure:
                log.warning("%s: %s; requests that need it get 503", self._what, error)
            self._failure = str(error)
        finally:
            self._running = None
