"""How many requests of one key are admitted: a sliding window, or a bucket where a burst is configured. Pure.

Without `burst`: at most `limit` in any period of `window`, wherever it begins. The window is cut into `SLICES`; a slice
has the number of its requests and the time of the last one, and all of them count until that time is a window ago. So
never more than `limit` are admitted, and a place becomes free at most window / SLICES late.

With `burst`: a bucket of that depth which fills evenly with `limit` per `window`, as the generic cell rate algorithm
(ITU-T I.371): one time in place of a counter. In any period of `window` at most `burst` + `limit` are admitted.

Where entries are kept, and that workers change them one after the other: velocity_edge/wire/rate_cells.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from velocity_edge.wire.rate_entry import MAX_WEIGHT, STATE_WORDS, Change, State

#: One word per slice; the oldest one of a full circle has ended before its word is used again.
SLICES: Final = STATE_WORDS - 1
#: A word of the window: time of the last request in ms << 24 | number of requests.
MAX_LIMIT: Final = (1 << 24) - 1
_COUNT: Final = MAX_LIMIT
#: Clocks are read before the entry is locked: another worker may have written a moment later. What is further in the
#: future was not written by this program, and means nothing.
_AHEAD_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request is admitted, how many more are now, and when that number grows."""

    admitted: bool
    remaining: int
    #: Until one more is admitted than now.
    more_after_s: float


@dataclass(frozen=True, slots=True)
class Quota:
    """`limit` requests per `window_ms`; with `burst` (not 0) as a bucket."""

    limit: int
    window_ms: int
    burst: int = 0

    def ask(self, state: State, now_us: int) -> Change[Verdict]:
        """Decide about one request and count it if it is admitted."""
        return self._bucket(state, now_us) if self.burst else self._window(state, now_us)

    def _window(self, state: State, now_us: int) -> Change[Verdict]:
        # Rounded so that a request is never forgotten early.
        now_ms = -(-now_us // 1000)
        oldest_ms = now_us // 1000 - self.window_ms
        alive = [word for word in state if oldest_ms < word >> 24 <= now_ms + _AHEAD_MS]
        used = sum(word & _COUNT for word in alive)
        if used >= self.limit:
            after_ms = _until_free(sorted(alive), used - self.limit, oldest_ms)
            return Verdict(False, 0, after_ms / 1000), None
        slice_ms = max(1, ceil(self.window_ms / SLICES))
        number = now_ms // slice_ms
        index = number % STATE_WORDS
        last_ms, count = state[index] >> 24, state[index] & _COUNT
        same = state[index] in alive and last_ms // slice_ms == number
        words = list(state)
        words[index] = (max(now_ms, last_ms) << 24 | count + 1) if same else (now_ms << 24 | 1)
        used += 1
        others = [word >> 24 for word in alive if word != state[index]]
        first_ms, latest_ms = min([*others, words[index] >> 24]), max([*others, words[index] >> 24])
        verdict = Verdict(True, self.limit - used, (first_ms - oldest_ms) / 1000)
        return verdict, (latest_ms + self.window_ms, used * MAX_WEIGHT // self.limit, words)

    def _bucket(self, state: State, now_us: int) -> Change[Verdict]:
        interval_us = -(-self.window_ms * 1000 // self.limit)
        depth_us = interval_us * self.burst
        # The time at which the bucket would be full again.
        before_us = state[0] if state[0] <= now_us + depth_us + _AHEAD_MS * 1000 else 0
        full_us = max(before_us, now_us) + interval_us
        spare_us = now_us + depth_us - full_us
        if spare_us < 0:
            return Verdict(False, 0, -spare_us / 1e6), None
        used_us = full_us - now_us
        verdict = Verdict(True, spare_us // interval_us, (interval_us - spare_us % interval_us) / 1e6)
        words = [full_us, *state[1:]]
        return verdict, (-(-full_us // 1000) + 1, used_us * MAX_WEIGHT // depth_us, words)


def _until_free(words: list[int], over: int, oldest_ms: int) -> int:
    """Return in how many ms more than *over* requests of *words*, oldest first, are a window ago."""
    for word in words:
        over -= word & _COUNT
        if over < 0:
            return (word >> 24) - oldest_ms
    raise AssertionError("fewer requests than are over the limit")
