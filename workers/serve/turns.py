"""Turns of the loop and their budget: how long handlers may delay packets, timers, the heartbeat and orders.

A turn begins with a batch of events, or with work that earlier turns left. It ends when its time is used; the rest
waits in the backlog (backlog.py), of which each iteration of the loop does one turn's worth. A coroutine runs after the
turn that starts or resumes it, so a fixed estimate of its step is charged to that turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from workers.serve.backlog import Backlog, Work

#: Time of handlers per turn. Acknowledgements may be due after 25 ms (max_ack_delay): a turn that takes a fifth of that
#: does not distort a peer's estimate of the path. A cached response takes 20 us, so most batches fit into one turn.
TURN_NS: Final = 5_000_000
#: Estimated cost of a step of a coroutine: about a chunk of 64 KiB, read and written.
STEP_NS: Final = 100_000


class Turns:
    """The turns of one worker."""

    def __init__(
        self,
        progress: Callable[[], None],
        on_turn: Callable[[], None],
        after_turn: Callable[[], None],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """*progress* is called for each turn; *on_turn* and *after_turn* around one that processes the backlog."""
        self._progress = progress
        self._on_turn = on_turn
        self._after_turn = after_turn
        self._now_ns = now_ns
        self._ends_ns = 0
        self._scheduled = False
        self.backlog = Backlog()

    def begin(self) -> None:
        """Begin a turn."""
        self._progress()
        self._ends_ns = self._now_ns() + TURN_NS

    @property
    def over(self) -> bool:
        """Whether new work must wait: the time of this turn is used, or earlier work waits."""
        return self._now_ns() >= self._ends_ns or bool(self.backlog.waiting)

    @property
    def used(self) -> bool:
        """Whether the time of this turn is used."""
        return self._now_ns() >= self._ends_ns

    def charge_step(self) -> None:
        """Take the estimated time of a coroutine's step from this turn."""
        self._ends_ns -= STEP_NS

    def later(self, connection: int, stream: int, work: Work, n_bytes: int = 0) -> bool:
        """Do *work*, which keeps *n_bytes* of memory, in a later turn. False: there is no space for it."""
        if not self.backlog.add(connection, stream, work, n_bytes):
            return False
        self._schedule()
        return True

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        self._scheduled = False
        self._on_turn()
        self.begin()
        while self.backlog.waiting:
            self.backlog.take()()
            if self.used:
                break
        if self.backlog.waiting:
            self._schedule()
        self._after_turn()
