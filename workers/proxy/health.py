"""Whether a server is healthy: by requests that are sent to find out (active), and by those of clients (passive). Pure.

                 `fails` bad probes                                `fails` failures within `window`
      up  ----------------------------> down          in use  -----------------------------------> ejected
          <----------------------------                  ^  \\                                       |
                 `passes` good probes                    |   one failure: twice as long             | time is over
                                                         |             v                            v
                                                         +--------- on trial <----------------------+
                                                  one success

A server gets requests while it is up and not ejected. When that holds for none of a route's servers, all of them are
used (group.py): a check can be wrong, and an attempt costs less than a refusal.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

#: Bound of the doubling of an ejection.
_MAX_DOUBLINGS: Final = 4


@dataclass(frozen=True, slots=True)
class ActiveRules:
    """Results in a row that change the state."""

    passes: int = 2
    fails: int = 3


@dataclass(frozen=True, slots=True)
class PassiveRules:
    """`fails` failures within `window_s` eject a server for `ejection_s`. `fails` 0: never."""

    fails: int = 5
    window_s: float = 10.0
    ejection_s: float = 10.0


class Health:
    """The state of one server in one worker."""

    def __init__(self, active: ActiveRules, passive: PassiveRules) -> None:
        self._active = active
        self._passive = passive
        #: Answers to probes. Up until the first ones: a reload must not make a server wait for them.
        self.up = True
        self._in_a_row = 0
        self._failures: deque[float] = deque()
        self._ejected_until_s: float | None = None
        self._doublings = 0
        self._on_trial = False
        self.ejections = 0
        #: Why it is not healthy: "connection refused". "" while it is.
        self.reason = ""

    def usable(self, now_s: float) -> bool:
        """Whether it gets requests."""
        self._end_ejection(now_s)
        return self.up and self._ejected_until_s is None

    def ejected(self, now_s: float) -> bool:
        """Whether it is left out because requests failed."""
        self._end_ejection(now_s)
        return self._ejected_until_s is not None

    def on_probe(self, good: bool, reason: str = "") -> bool:
        """Take in the result of a probe; return whether it changed the state."""
        if good == self.up:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row < (self._active.passes if good else self._active.fails):
            return False
        self.up, self._in_a_row = good, 0
        self.reason = "" if good else reason
        if good:
            # It answers: what requests found out before is old.
            self._forgive()
        return True

    def on_attempt(self, failed: bool, now_s: float, reason: str = "") -> bool:
        """Take in how a request of a client ended; return whether the server is ejected now."""
        self._end_ejection(now_s)
        if self._ejected_until_s is not None or not self._passive.fails:
            return False  # an attempt that began before, or one in the absence of a healthy server
        if not failed:
            if self._on_trial:
                self._forgive()
            return False
        while self._failures and self._failures[0] <= now_s - self._passive.window_s:
            self._failures.popleft()
        self._failures.append(now_s)
        if not self._on_trial and len(self._failures) < self._passive.fails:
            return False
        self._eject(now_s, reason)
        return True

    def _eject(self, now_s: float, reason: str) -> None:
        if self._on_trial:
            self._doublings = min(self._doublings + 1, _MAX_DOUBLINGS)
        self._ejected_until_s = now_s + self._passive.ejection_s * 2**self._doublings
        self._failures.clear()
        self._on_trial = False
        self.ejections += 1
        self.reason = reason

    def _end_ejection(self, now_s: float) -> None:
        if self._ejected_until_s is not None and now_s >= self._ejected_until_s:
            self._ejected_until_s = None
            self._on_trial = True

    def _forgive(self) -> None:
        self._failures.clear()
        self._ejected_until_s = None
        self._doublings = 0
        self._on_trial = False
        if self.up:
            self.reason = ""
