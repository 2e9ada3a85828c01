"""Who gets a new connection: a table of 1024 entries, indexed by a hash, filled with the ids of accepting workers.

Pure. `fill` keeps as many entries as possible from the table before: an entry changes hands only when its worker does
not accept any more, or has more than its share. So the table is as even as can be, and moves are minimal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


def fill(previous: Sequence[int | None], worker_ids: Sequence[int]) -> list[int | None]:
    """Return a table as long as *previous*, in which each of *worker_ids* has its equal part (None: nobody accepts)."""
    if not worker_ids:
        return [None] * len(previous)
    share, extra = divmod(len(previous), len(worker_ids))
    held = {worker_id: previous.count(worker_id) for worker_id in worker_ids}
    # The odd entries go to those who hold most: that moves least.
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
