"""When a draining worker sends GOAWAYs to its connections and closes them. Pure: the time is a parameter.

    connection      when                                                     what
    serving         its turn within `spread_s` has come                      GOAWAY, initial (RFC 9114 section 5.2)
    warned          `_FINAL_AFTER_S` later: requests in flight have arrived  GOAWAY, final
    told            no request for `_CLOSE_AFTER_S`                          close with H3_NO_ERROR
    any             the deadline                                             close: cut; its requests are lost

Spreading keeps thousands of clients from reconnecting at the same moment. Most clients close first. A connection that
appears during the drain (its handshake was in flight) is warned as soon as its handshake completes. For `LINGER_S` new
connections are accepted: packets that were steered here before the switch wait in the socket, or return after a Retry.
When no connection remains after that, the drain is over.

A connection that got its final GOAWAY in an earlier drain (which was resumed) gets none again: its limit must not
increase (RFC 9114 section 5.2), a client would close with H3_ID_ERROR. The connection is closed when its turn has come.

`discourage` sends GOAWAYs to the present connections and does nothing else: no connection is closed, new ones are
accepted, and it is never over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

#: The initial GOAWAY excludes no request, so that those in flight are processed; the final one follows after about a
#: round trip.
_FINAL_AFTER_S: Final = 1.0
#: Time for the client to receive the final GOAWAY and to close. A response that is acknowledged may still be unread in
#: the client's stack, which discards it on CONNECTION_CLOSE: with 1 s here, quic-go clients that read slowly lost
#: downloads in the hitless experiment. Clients that obey GOAWAY do not wait for this.
_CLOSE_AFTER_S: Final = 5.0
#: Longer than a datagram waits in the socket, or a client needs to answer a Retry.
LINGER_S: Final = 1.0


class Act(Enum):
    """What to do with a connection now."""

    WARN = "goaway, initial"
    TELL = "goaway, final"
    CLOSE = "close"


@dataclass(slots=True)
class _Progress:
    """What was done with one connection."""

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
    #: Connections that were closed at the deadline, and the requests that ran on them.
    cut: int = 0
    lost: int = 0
    over: bool = False
    _planned: bool = False
    _known: dict[int, _Progress] = field(default_factory=dict)

    def accepts(self, now_s: float) -> bool:
        """Return whether new connections are accepted."""
        return self.discourage or now_s < min(self.started_s + LINGER_S, self.deadline_s)

    def renew(self, now_s: float, deadline_s: float, spread_s: float, *, discourage: bool) -> None:
        """Continue with another deadline or kind of drain. No connection gets a final GOAWAY twice."""
        if discourage is not self.discourage:
            # Connections that came during a discourage get their turns from now on.
            self.started_s, self.discourage, self._planned = now_s, discourage, False
        self.deadline_s, self.spread_s, self.over = deadline_s, spread_s, False
        for progress in self._known.values():
            progress.warn_at_s = min(progress.warn_at_s, now_s + spread_s)

    def step(self, now_s: float, connections: Sequence[tuple[int, int, bool]]) -> list[tuple[Act, int]]:
        """Return what to do now. Call it every 100 ms.

        *connections*: all, each with its open requests and whether its handshake is complete.
        """
        if not self._planned:
            self._planned = True
            self._plan([connection for connection, _, _ in connections])
            self.told.intersection_update(self._known)
        late = now_s >= self.deadline_s and not self.discourage
        acts: list[tuple[Act, int]] = []
        for connection, requests, established in connections:
            progress = self._known.get(connection)
            if progress is None:
                if self.discourage:
                    continue
                progress = self._known[connection] = _Progress(now_s)
            if requests:
                progress.idle_since_s = None
            elif progress.idle_since_s is None:
                progress.idle_since_s = now_s
            if late:
                if not progress.closed:
                    progress.closed = True
                    self.cut += 1
                    self.lost += requests
                    acts.append((Act.CLOSE, connection))
            elif progress.warned_s is None:
                if now_s >= progress.warn_at_s and established:
                    progress.warned_s = now_s
                    if connection in self.told:
                        progress.told_s = now_s
                    else:
                        acts.append((Act.WARN, connection))
            elif progress.told_s is None:
                if now_s >= progress.warned_s + _FINAL_AFTER_S:
                    progress.told_s = now_s
                    self.told.add(connection)
                    acts.append((Act.TELL, connection))
            elif (
                not (progress.closed or self.discourage)
                and progress.idle_since_s is not None
                and now_s >= max(progress.told_s, progress.idle_since_s) + _CLOSE_AFTER_S
            ):
                progress.closed = True
                acts.append((Act.CLOSE, connection))
        for connection in self._known.keys() - {connection for connection, _, _ in connections}:
            del self._known[connection]
            self.told.discard(connection)
        self.over = not connections and not self.accepts(now_s)
        return acts

    def _plan(self, order: Sequence[int]) -> None:
        """Distribute the turns of the connections evenly over the spread."""
        # The spread ends early enough for the last connection to get both GOAWAYs before the deadline.
        room_s = max(0.0, self.deadline_s - self.started_s - _FINAL_AFTER_S - _CLOSE_AFTER_S)
        spread_s = min(self.spread_s, room_s)
        for index, connection in enumerate(order):
            if connection in self._known:
                continue
            self._known[connection] = _Progress(self.started_s + spread_s * index / len(order))
