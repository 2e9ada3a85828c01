"""Requests that wait until a server has room: first come, first served, bounded in number and time. Pure.

All wait equally long at most, so the first one is also the first whose time is over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class WaitingRoom(Generic[T]):
    """The waiting requests of one route in one worker."""

    def __init__(self, max_waiting: int, timeout_s: float) -> None:
        self.max_waiting = max_waiting
        self._timeout_s = timeout_s
        #: Who waits -> until when (a clock of the caller).
        self._until_s: OrderedDict[T, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until_s)

    def enter(self, who: T, now_s: float) -> bool:
        """Let *who* wait. False: there is no room."""
        if len(self._until_s) >= self.max_waiting:
            return False
        self._until_s[who] = now_s + self._timeout_s
        return True

    def leave(self, who: T) -> None:
        """*who* does not wait any more: its client is gone."""
        self._until_s.pop(who, None)

    def next(self) -> T | None:
        """Take out who waits longest."""
        return self._until_s.popitem(last=False)[0] if self._until_s else None

    def overdue(self, now_s: float) -> list[T]:
        """Take out those whose time is over."""
        over: list[T] = []
        while self._until_s:
            who, until_s = next(iter(self._until_s.items()))
            if until_s > now_s:
                break
            del self._until_s[who]
            over.append(who)
        return over

    @property
    def next_due_s(self) -> float | None:
        """When the time of the first is over; None when nobody waits."""
        return next(iter(self._until_s.values()), None)
