"""Spreads new connections over workers: a table indexed by a hash, filled with the ids of accepting workers.

Pure. `fill` keeps as many entries of the previous table as possible: an entry changes only when its worker no longer
accepts, or has more than its share. So the shares differ by one entry at most, and changes are minimal.

Short because it is the one decision of steering that is not about a kernel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


def fill(previous: Sequence[int | None], worker_ids: Sequence[int]) -> list[int | None]:
    """Return a table as long as *previous* with equal shares for *worker_ids* (None without any)."""
    if not worker_ids:
        return [None] * len(previous)
    share, extra = divmod(len(previous), len(worker_ids))
    held = {worker_id: previous.count(worker_id) for worker_id in worker_ids}
    # The remaining entries go to the workers that have most: the fewest entries change.
    by_size = sorted(worker_ids, key=lambda worker_id: -held[worker_id])
    quota = {worker_id: share + (place < extra) for place, worker_id in enumerate(by_size)}
    needy = deque(w for w in worker_ids for _ in range(quota[w] - min(held[w], quota[w])))
    table: list[int | None] = []
    for owner in previous:
        if owner is not None and quota.get(owner, 0) > 0:
            quota[owner] -= 1
            table.append(owner)
        else:
            table.append(needy.popleft())
            needy.rotate(-1)
    return table
