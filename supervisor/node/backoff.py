"""How long to wait before a worker is started again on its core.

A worker that served for a while and then crashed is replaced at once: its clients wait. One that crashes again soon, or
never became ready, is tried later and later, so that a broken node is not also a busy one. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 30.0
#: A worker that served this long was fine: what came before is forgotten.
STABLE_S: Final = 60.0


@dataclass(slots=True)
class Backoff:
    """The recent failures of one core."""

    failures: int = 0

    def delay_s(self, served_s: float | None) -> float:
        """Return the delay after a failure of a worker that served for *served_s* (None: it never became ready)."""
        if served_s is not None and served_s >= STABLE_S:
            self.failures = 0
        self.failures += 1
        steps = self.failures if served_s is None else self.failures - 1
        if steps == 0:
            return 0.0
        # 2**7 * FIRST_DELAY_S is beyond the maximum; the bound keeps a long night from overflowing a float.
        return float(min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(steps - 1, 7)))
