"""An agreement: a change (a revision, a key table) takes effect when every worker has acknowledged it. Pure.

Short because it is one decision: which workers an agreement still waits for. A worker that exits meanwhile is excused:
its successor starts with what is in effect then. A change that no worker acknowledged before all of them exited is not
agreed on (`vouched`). Used by reloading.py and key_change.py; what happens at the deadline is in deadlines.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Agreement:
    """The workers that have yet to acknowledge `target` (a revision, or the epoch that will seal), and the deadline."""

    target: int
    waiting: set[int]
    deadline_s: float
    #: At least one worker has acknowledged.
    vouched: bool = False
    began_s: float = 0.0

    def acknowledge(self, worker_id: int) -> bool:
        """A worker has acknowledged; return whether the agreement is complete."""
        self.vouched = True
        return self.excuse(worker_id)

    def excuse(self, worker_id: int) -> bool:
        """Stop waiting for a worker that exited; return whether the agreement is complete."""
        self.waiting.discard(worker_id)
        return not self.waiting
