"""Stream data that came ahead of a gap: disjoint ranges in order, a bounded number of them.

aioquic keeps such ranges in a list that it walks from the beginning for each frame, without a bound: 8000 bytes with
gaps between them cost 12 seconds before the peer's address was validated. Here the position is found by bisection, and
one gap too many ends the connection. `Pieces` has what aioquic's QuicStreamReceiver needs of a RangeSet.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable


class Pieces:
    """Ranges of offsets. `check(number of ranges)` is called before there is one more, and may raise."""

    __slots__ = ("_check", "_starts", "_stops")

    def __init__(self, check: Callable[[int], None]) -> None:
        self._check = check
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> range:
        return range(self._starts[index], self._stops[index])

    def add(self, start: int, stop: int) -> None:
        """Merge in start..stop."""
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        else:
            self._check(len(self._starts) + 1)
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def shift(self) -> range:
        """Remove the first range and return it."""
        return range(self._starts.pop(0), self._stops.pop(0))
