"""Wrong passwords per client: after some in a minute, a client has to wait. Pure.

A client is an IPv4 address, or an IPv6 network of 64 bits, as rate limits see it (addresses.py). Each has a bucket
that a failure empties by one and that fills again with time. The number of clients is bounded; of the others the one
that failed longest ago is forgotten, whose bucket is the fullest.

Each worker counts for itself. A connection stays with its worker, but a client can open others: on a node with N
workers it has up to N times as many tries.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 60.0
#: About 1 MiB.
MAX_CLIENTS: Final = 8192


class Failures:
    """The buckets of all clients of one middleware."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        """*limit*: failures per minute. *clock* in seconds; must not go back."""
        self._limit = limit
        self._clock = clock
        #: Client -> (failures that count, when).
        self._counts: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def _now(self, client: bytes) -> float:
        count, at_s = self._counts.get(client, (0.0, 0.0))
        return max(0.0, count - (self._clock() - at_s) * self._limit / WINDOW_S)

    def wait_s(self, client: bytes) -> int:
        """Return how long *client* has to wait before its next try, in whole seconds; 0: not at all."""
        over = self._now(client) - (self._limit - 1)
        # Sums of binary fractions: a millionth of a failure is none.
        return math.ceil(over * WINDOW_S / self._limit) if over > 1e-6 else 0

    def add(self, client: bytes) -> None:
        """Count a failure."""
        count = self._now(client) + 1
        self._counts.pop(client, None)
        while len(self._counts) >= MAX_CLIENTS:
            self._counts.popitem(last=False)
        self._counts[client] = count, self._clock()

    def take_back(self, client: bytes) -> None:
        """What was counted by `add` was no failure."""
        count = self._now(client) - 1
        if count > 0:
            self._counts[client] = count, self._clock()
        else:
            self._counts.pop(client, None)
