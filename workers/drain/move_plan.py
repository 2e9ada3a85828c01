"""When a worker replaces connection IDs of old keys, or drains the connections that have them. Pure: the time is a
parameter.

    connection     when                                                 what
    any            its turn within `spread_s` has come                  issue new IDs, request to retire the old ones
    asked          the engine cannot, or `_PATIENCE_S` later            drain_plan.py: both GOAWAYs, close when idle

The first costs a client nothing (RFC 9000 section 5.1.2), but not every engine implements it. The second costs it a
handshake: it opens another connection, and requests in flight are answered before this one is closed. There is no
deadline: a connection that is never idle stays, and no request is lost.

A connection that has moved is no longer among those that `step` is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from workers.drain.drain_plan import Act, Drain

#: An active client retires IDs within round trips; an idle one sends keep-alives, mostly every 15 to 30 s.
_PATIENCE_S: Final = 40.0


class Ask(Enum):
    """The first step."""

    RENAME = "issue new connection IDs"


@dataclass(slots=True)
class Move:
    """One move. Times are seconds of one monotonic clock."""

    started_s: float
    spread_s: float
    _turns: dict[int, float] = field(default_factory=dict)
    _asked_s: dict[int, float] = field(default_factory=dict)
    _drain: Drain = field(init=False)

    def __post_init__(self) -> None:
        self._drain = Drain(self.started_s, inf, 0.0)

    def cannot_rename(self, connection: int) -> None:
        """Note that the engine cannot issue new IDs for this connection."""
        self._asked_s[connection] = -inf

    def step(self, now_s: float, connections: Sequence[tuple[int, int, bool]]) -> list[tuple[Ask | Act, int]]:
        """Return what to do now. Call it every half second.

        *connections*: those with IDs of old keys, each with its open requests and whether its handshake is complete.
        """
        present = {connection for connection, _, _ in connections}
        self._turns = {c: turn_s for c, turn_s in self._turns.items() if c in present}
        self._asked_s = {c: asked_s for c, asked_s in self._asked_s.items() if c in present}
        fresh = [connection for connection, _, _ in connections if connection not in self._turns]
        left_s = max(0.0, self.started_s + self.spread_s - now_s)
        for index, connection in enumerate(fresh):
            self._turns[connection] = now_s + left_s * index / len(fresh)
        acts: list[tuple[Ask | Act, int]] = []
        leaving = []
        for connection, requests, established in connections:
            asked_s = self._asked_s.get(connection)
            if asked_s is None:
                if established and now_s >= self._turns[connection]:
                    self._asked_s[connection] = now_s
                    acts.append((Ask.RENAME, connection))
            elif now_s >= asked_s + _PATIENCE_S:
                leaving.append((connection, requests, established))
        return [*acts, *self._drain.step(now_s, leaving)]
