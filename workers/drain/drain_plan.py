"""How a worker takes leave of its connections: a pure table with a clock for a parameter.

    connection      when                                                     what
    serving         its turn within `spread_s` has come                      GOAWAY "soon" (RFC 9114 section 5.2)
    warned          `_FINAL_AFTER_S` later: requests on the way are in       final GOAWAY
    told            no request for `_CLOSE_AFTER_S`                          close with H3_NO_ERROR
    any             the deadline                                             close: cut; its requests are lost

Spreading keeps thousands of clients from coming back in the same moment. The client may close first, and mostly does.
A connection that appears while we drain (its handshake was on the way) is warned as soon as it stands. For `LINGER_S`
new ones are still taken: what was steered here before the switch waits in our socket, or comes back from a Retry. When
no connection is left after that, the drain is over.

A connection that got its final GOAWAY in an earlier drain (there was a resume) gets none again: the limit in it may
never grow (RFC 9114 section 5.2), a client would close with H3_ID_ERROR. It is closed when its turn has come.

`discourage` only asks: those that are here get their GOAWAYs; nobody is closed, newcomers stay, and it is never over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

#: The first GOAWAY names no request, so that those on the way still count; after about a round trip the final one does.
_FINAL_AFTER_S: Final = 1.0
#: Time for the client to see the final GOAWAY and to leave by itself. An answer that is sent and acknowledged may still
#: lie unread in the client's stack, which throws it away at our CONNECTION_CLOSE: with 1 s here, quic-go clients that
#: read slowly lost downloads in the hitless experiment. Clients that obey GOAWAY do not wait for this.
_CLOSE_AFTER_S: Final = 5.0
#: Longer than a datagram waits in our socket or a Retry needs to come back.
LINGER_S: Final = 1.0


class Act(Enum):
    """What to do with a connection now."""

    WARN = "goaway, soon"
    TELL = "goaway, final"
    CLOSE = "close"


@dataclass(slots=True)
class _Leaving:
    warn_at_s: float
    warned_s: float | None = None
    told_s: float | None = None
    idle_since_s: float | None = None
    closed: bool = False


@dataclass(slots=True)
class Drain:
    """One drain. Times are seconds of one monotonic clock."""

    started_s: float
    deadline_s: float
    spread_s: float
    discourage: bool = False
    #: Connections that have had their final GOAWAY, now or in an earlier drain.
    told: set[int] = field(default_factory=set)
    #: Connections that the deadline closed, and the requests that ran on them.
    cut: int = 0
    lost: int = 0
    over: bool = False
    _planned: bool = False
    _known: dict[int, _Leaving] = field(default_factory=dict)

    def accepts(self, now_s: float) -> bool:
        """Return whether new connections are taken."""
        return self.discourage or now_s < min(self.started_s + LINGER_S, self.deadline_s)

    def renew(self, now_s: float, deadline_s: float, spread_s: float, *, discourage: bool) -> None:
        """Go on under another order: another deadline, another kind. Who has been told is not told again."""
        if discourage is not self.discourage:
            # Those who came while they were welcome get their turns from now on.
            self.started_s, self.discourage, self._planned = now_s, discourage, False
        self.deadline_s, self.spread_s, self.over = deadline_s, spread_s, False
        for leaving in self._known.values():
            leaving.warn_at_s = min(leaving.warn_at_s, now_s + spread_s)

    def step(self, now_s: float, connections: Sequence[tuple[int, int, bool]]) -> list[tuple[Act, int]]:
        """Return what to do now. Call it every 100 ms.

        *connections*: all that there are, each with its open requests and whether its handshake is complete.
        """
        if not self._planned:
            self._planned = True
            self._plan([connection for connection, _, _ in connections])
            self.told.intersection_update(self._known)
        late = now_s >= self.deadline_s and not self.discourage
        acts: list[tuple[Act, int]] = []
        for connection, requests, established in connections:
            leaving = self._known.get(connection)
            if leaving is None:
                if self.discourage:
                    continue
                leaving = self._known[connection] = _Leaving(now_s)
            if requests:
                leaving.idle_since_s = None
            elif leaving.idle_since_s is None:
                leaving.idle_since_s = now_s
            if late:
                if not leaving.closed:
                    leaving.closed = True
                    self.cut += 1
                    self.lost += requests
                    acts.append((Act.CLOSE, connection))
            elif leaving.warned_s is None:
                if now_s >= leaving.warn_at_s and established:
                    leaving.warned_s = now_s
                    if connection in self.told:
                        leaving.told_s = now_s
                    else:
                        acts.append((Act.WARN, connection))
            elif leaving.told_s is None:
                if now_s >= leaving.warned_s + _FINAL_AFTER_S:
                    leaving.told_s = now_s
                    self.told.add(connection)
                    acts.append((Act.TELL, connection))
            elif (
                not (leaving.closed or self.discourage)
                and leaving.idle_since_s is not None
                and now_s >= max(leaving.told_s, leaving.idle_since_s) + _CLOSE_AFTER_S
            ):
                leaving.closed = True
                acts.append((Act.CLOSE, connection))
        for connection in self._known.keys() - {connection for connection, _, _ in connections}:
            del self._known[connection]
            self.told.discard(connection)
        self.over = not connections and not self.accepts(now_s)
        return acts

    def _plan(self, order: Sequence[int]) -> None:
        """Give each connection its turn, evenly over the spread."""
        # The spread ends early enough that the last one still has its two GOAWAYs before the deadline.
        room_s = max(0.0, self.deadline_s - self.started_s - _FINAL_AFTER_S - _CLOSE_AFTER_S)
        spread_s = min(self.spread_s, room_s)
        for index, connection in enumerate(order):
            if connection in self._known:
                continue
            self._known[connection] = _Leaving(self.started_s + spread_s * index / len(order))
