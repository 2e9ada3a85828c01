"""A change that every worker must acknowledge before it takes effect: a revision, or a table of keys. Pure.

A worker that dies meanwhile is not waited for: its successor starts with what holds by then.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Agreement:
    """Who has yet to acknowledge `target` (a revision, or the epoch that will seal), and until when."""

    target: int
    waiting: set[int]
    deadline_s: float
    #: Somebody did acknowledge; a change that nobody lived to try is not agreed on.
    vouched: bool = False
    began_s: float = 0.0

    def acknowledge(self, worker_id: int) -> bool:
        """Take in an acknowledgement; return whether nobody is waited for any more."""
        self.vouched = True
        return self.excuse(worker_id)

    def excuse(self, worker_id: int) -> bool:
        """Stop waiting for a worker that died; return whether nobody is waited for any more."""
        self.waiting.discard(worker_id)
        return not self.waiting
