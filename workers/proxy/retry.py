"""Whether a request is tried again after an attempt without an answer. Pure.

Never after the head of a response was sent. A request that no server has seen (no connection) is always safe. Another
is safe only if its method is idempotent (RFC 9110 section 9.2.2) and nothing of a body was sent, because what was sent
is not kept. The budget bounds what retries add to the load of servers that fail already.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from velocity_edge.http.requests import Outcome

_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
#: Nothing reached a server.
_UNSEEN: Final = frozenset((Outcome.CONNECT_FAILED, Outcome.CONNECT_TIMEOUT))
#: Word of `retries.on` -> outcomes.
OUTCOMES: Final = {
    "connect": _UNSEEN,
    "closed": frozenset((Outcome.CLOSED_EARLY,)),
    "timeout": frozenset((Outcome.RESPONSE_TIMEOUT,)),
    "invalid": frozenset((Outcome.INVALID,)),
}

#: Retries per window that are allowed whatever their share is: with few requests, a share is no number.
FREE_RETRIES: Final = 10
_WINDOW_S: Final = 10
#: The window moves in steps of a second.
_STEP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class RetryRules:
    """`retries` of a route."""

    attempts: int = 3
    on: frozenset[Outcome] = _UNSEEN | OUTCOMES["closed"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended, of what."""

    method: bytes
    outcome: Outcome
    head_sent: bool = False
    body_sent: bool = False
    #: On a kept-alive connection: the server may have closed it before the request arrived (RFC 9112 section 9.3.1).
    reused: bool = False
    #: A WebSocket or another protocol that the connection would have become.
    tunnel: bool = False


def is_safe(attempt: Attempt) -> bool:
    """Whether another attempt cannot do anything twice."""
    if attempt.head_sent or attempt.body_sent:
        return False
    if attempt.outcome in _UNSEEN:
        return True
    return attempt.method in _IDEMPOTENT and not attempt.tunnel


def wants_another(rules: RetryRules, attempt: Attempt, number: int) -> bool:
    """Whether the attempt with this *number* (from 1) is followed by another one, if the budget allows it."""
    if number >= rules.attempts or not is_safe(attempt):
        return False
    stale = attempt.outcome is Outcome.CLOSED_EARLY and attempt.reused
    return stale or attempt.outcome in rules.on


class Budget:
    """Attempts and retries of the last seconds."""

    def __init__(self, share: float) -> None:
        """*share*: of retries in all attempts."""
        self._share = share
        #: (second, attempts, retries), the oldest first.
        self._steps: deque[list[int]] = deque()

    def attempt(self, now_s: float) -> None:
        """Count a first attempt."""
        self._step(now_s)[1] += 1

    def retry(self, now_s: float) -> bool:
        """Count a retry; False: there is no budget for it, and it is not counted."""
        step = self._step(now_s)
        attempts = sum(each[1] for each in self._steps)
        retries = sum(each[2] for each in self._steps) + 1
        if self._share == 0 or (retries > FREE_RETRIES and retries > self._share * (attempts + retries)):
            return False
        step[2] += 1
        return True

    def _step(self, now_s: float) -> list[int]:
        second = int(now_s // _STEP_S)
        while self._steps and self._steps[0][0] <= second - _WINDOW_S:
            self._steps.popleft()
        if not self._steps or self._steps[-1][0] != second:
            self._steps.append([second, 0, 0])
        return self._steps[-1]
