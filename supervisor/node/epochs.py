"""Which epochs' connection IDs are still needed, and which key tables a node can use. Pure.

What an epoch is: velocity_edge/keys/table.py.

A connection keeps its ids over rotations, so an epoch's CID configuration must decode as long as one holds an id of it.
Workers count them (`Heartbeat.connections_by_config`). An epoch is idle when

- it does not seal, and stopped sealing so long ago that no packet of a closed connection and no Retry can come back,
- every worker that serves has reported, since it seals with the present epoch, that none of its connections holds an
  id,
- no packets with ids of a dead worker can come (the caller checks that): they must decode to be answered with resets.

A worker that has not reported, or cannot, keeps every epoch live.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from supervisor.node.lifecycle import WorkerState
from supervisor.node.worker import Worker
from velocity_edge.errors import CannotDo
from velocity_edge.keys.table import CID_CONFIGS


def idle_epochs(
    live: tuple[int, ...], seal_with: int, lingering: Collection[int], workers: Iterable[Worker]
) -> tuple[int, ...]:
    """Return the epochs of *live* of which no connection holds an id."""
    candidates = [epoch for epoch in live if epoch != seal_with and epoch not in lingering]
    if not candidates:
        return ()
    for worker in workers:
        if worker.ready_s is None:
            continue  # it starts: it has no connections, and will have none of an epoch that does not seal
        counts, acknowledged = worker.by_config, worker.keys_in_use
        if worker.state is WorkerState.KILLED or counts is None or acknowledged is None:
            return ()
        if acknowledged.seal_with != seal_with:
            return ()
        candidates = [epoch for epoch in candidates if not counts.get(epoch % CID_CONFIGS)]
    return tuple(candidates)


def connections_by_epoch(live: tuple[int, ...], workers: Iterable[Worker]) -> dict[int, int]:
    """Return epoch -> connections that hold an id of it, for the epochs in *live*, as far as workers have reported."""
    sums = dict.fromkeys(live, 0)
    for worker in workers:
        counts: Mapping[int, int] = (worker.heartbeat.connections_by_config if worker.heartbeat else None) or {}
        for epoch in live:
            sums[epoch] += counts.get(epoch % CID_CONFIGS, 0)
    return sums


def refuse_table(epochs: tuple[int, ...], seal_with: int, live: tuple[int, ...], closed: tuple[int, ...]) -> None:
    """Raise `CannotDo` when a node whose connections hold ids of the *live* epochs cannot use such a table."""
    if seal_with not in epochs:
        raise CannotDo(f"cannot rotate keys: epoch {seal_with} is not in the table")
    if missing := [epoch for epoch in live if epoch not in epochs]:
        raise CannotDo(f"cannot rotate keys: connections live on epoch {missing[0]}, which is not in the new table")
    if seal_with in closed:
        raise CannotDo(f"cannot close epoch {seal_with}: it is the one that seals")
    for epoch in live:
        if epoch != seal_with and epoch % CID_CONFIGS == seal_with % CID_CONFIGS:
            raise CannotDo(
                f"cannot rotate keys: epoch {seal_with} needs the connection IDs of epoch {epoch}, which are in use"
            )
