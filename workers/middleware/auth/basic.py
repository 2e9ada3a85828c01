"""`kind: basic`: names and passwords (RFC 7617).

Verifying a password takes 0.1 s on purpose. It runs in one thread beside the loop, with few waiting: what exceeds that
gets a 503. A pair that was right is remembered for some minutes, by a digest with a key of this process, so that a page
with many files costs one verification. Wrong ones count against the client's address: after some in a minute it gets
429 without a verification. Names that do not exist take as long as those that do.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import os
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from velocity_edge.config.middlewares.basic import Basic
from velocity_edge.http.passwords import MAX_PASSWORD_BYTES, Hash, stand_in
from workers.http import Request
from workers.measures import Measures
from workers.middleware.addresses import one_host
from workers.middleware.auth.failures import Failures
from workers.middleware.auth.guard import Admitted, Guard, Refused, Verdict, own

REMEMBER_S: Final = 300.0
MAX_REMEMBERED: Final = 1024
#: Verifications that wait for the thread: a second or two.
MAX_WAITING: Final = 16


class Verifier:
    """Verifies passwords of one file in a thread of its own. A `Resource` (workers/handlers/resources.py)."""

    def __init__(
        self, users: Mapping[str, Hash], max_failures: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*max_failures*: per client and minute. *clock* in seconds."""
        self.failures = Failures(max_failures, clock)
        self._users = users
        self._nobody = stand_in(users)
        self._clock = clock
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "passwords")
        self.waiting = 0

    def _digest(self, pair: bytes) -> bytes:
        return hashlib.blake2b(pair, key=self._key, digest_size=32).digest()

    def knows(self, pair: bytes) -> bool:
        """Return whether `name:password` was right a short time ago."""
        until_s = self._right.get(self._digest(pair))
        return until_s is not None and self._clock() < until_s

    @property
    def busy(self) -> bool:
        """Whether as many verifications wait as may."""
        return self.waiting >= MAX_WAITING

    async def verify(self, name: str, pair: bytes) -> bool:
        """Return whether *pair* is right."""
        password = pair.partition(b":")[2]
        hash_ = self._users.get(name)
        self.waiting += 1
        try:
            found = (hash_ or self._nobody).verifies
            right = await asyncio.get_running_loop().run_in_executor(self._thread, found, password)
        finally:
            self.waiting -= 1
        if hash_ is None or not right:
            return False
        while len(self._right) >= MAX_REMEMBERED:
            self._right.popitem(last=False)
        self._right[self._digest(pair)] = self._clock() + REMEMBER_S
        return True

    def close(self) -> None:
        """End the thread when it is idle; what waits is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class BasicGuard(Guard):
    """Admits requests with a name and the right password."""

    def __init__(self, section: Basic, measures: Measures, verifier: Verifier) -> None:
        forward = {"sub": section.user_field.encode()} if section.user_field else {}
        super().__init__(section.name, measures, forward=forward)
        self._verifier = verifier
        self._failures = verifier.failures
        # Section 2.1: names and passwords are UTF-8.
        self._challenge = (b"www-authenticate", f'Basic realm="{section.realm}", charset="UTF-8"'.encode())
        self._drop = (b"authorization",) if section.hide_credentials else ()

    def identify(self, request: Request) -> Verdict | Awaitable[Verdict]:
        """Verify name and password; wait only for a pair that is not known yet."""
        field = request.header(b"authorization")
        if field is None:
            return self._refused("unauthenticated")
        found = credentials(field)
        if found is None:
            return self._refused("invalid")
        name, pair = found
        if self._verifier.knows(pair):
            return self._admitted(name)
        client = one_host(request.client)
        wait_s = self._failures.wait_s(client)
        if wait_s:
            return Refused(own(429, "", (b"retry-after", b"%d" % wait_s)), "limited")
        if self._verifier.busy:
            return Refused(own(503, "", (b"retry-after", b"1")), "unavailable")
        # Before the result is known: what runs at the same time counts, too.
        self._failures.add(client)
        return self._verify(name, pair, client)

    async def _verify(self, name: str, pair: bytes, client: bytes) -> Verdict:
        if not await self._verifier.verify(name, pair):
            return self._refused("invalid")
        self._failures.take_back(client)
        return self._admitted(name)

    def _admitted(self, name: str) -> Admitted:
        return Admitted({"sub": name}, drop=self._drop)

    def _refused(self, result: str) -> Refused:
        return Refused(own(401, "", self._challenge), result)


def credentials(field: bytes) -> tuple[str, bytes] | None:
    """Return the name, and `name:password`, of an Authorization field; None when it has none of that form."""
    scheme, _, text = field.partition(b" ")
    if scheme.lower() != b"basic" or len(text) > 2 * MAX_PASSWORD_BYTES:
        return None
    try:
        pair = b64decode(text.strip(b" "), validate=True)
        name, colon, password = pair.partition(b":")
        return (name.decode("utf-8"), pair) if colon and len(password) <= MAX_PASSWORD_BYTES else None
    except (binascii.Error, ValueError):
        return None
