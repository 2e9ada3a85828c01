"""The deadlines of thousands of connections, which move all the time.

A heap of (deadline, connection) would keep a stale entry for each move: an idle deadline moves with every packet. So
connections are kept in days of one millisecond, a move is a set operation, and the heap holds each day once.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_DAY_NS = 1_000_000


class Calendar(Generic[T]):
    """One deadline per item. Times are in nanoseconds."""

    def __init__(self) -> None:
        self._days: dict[int, set[T]] = {}
        self._order: list[int] = []
        self._day_of: dict[T, int] = {}

    def set(self, item: T, deadline_ns: int) -> None:
        """Set the deadline of *item*: it is due then or up to a millisecond later, and not at its earlier deadline."""
        # Rounded up: an item that is due too early finds nothing to do, and the loop would spin.
        day = -(-deadline_ns // _DAY_NS)
        if self._day_of.get(item) == day:
            return
        self.discard(item)
        self._day_of[item] = day
        items = self._days.get(day)
        if items is None:
            self._days[day] = {item}
            heapq.heappush(self._order, day)
        else:
            items.add(item)

    def discard(self, item: T) -> None:
        """Remove the deadline of *item*."""
        day = self._day_of.pop(item, None)
        if day is not None:
            # The empty day stays in the heap until its time: one entry per millisecond at most.
            self._days[day].discard(item)

    def next_ns(self) -> int | None:
        """Return when `due` has something, or None."""
        while self._order and not self._days[self._order[0]]:
            del self._days[heapq.heappop(self._order)]
        return self._order[0] * _DAY_NS if self._order else None

    def due(self, now_ns: int) -> list[T]:
        """Return and forget the items whose time has come."""
        woken: list[T] = []
        while self._order and self._order[0] * _DAY_NS <= now_ns:
            woken.extend(self._days.pop(heapq.heappop(self._order)))
        for item in woken:
            del self._day_of[item]
        return woken
