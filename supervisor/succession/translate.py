"""From the state of a node to what its successor must know (saved_state.py), and from that to `Started`. Pure.

Also decides which workers are kept. The shell writes the file; adoption.py waits for the workers, kills those that are
not kept and collects their sockets; startup.py makes a `Node` that begins with `Started`. tests/simulation kills a
supervisor between any two of its commands and continues from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from supervisor.node.happenings import Adopted, Departed, Rolling, Started
from supervisor.node.state import Settings, State
from supervisor.succession.saved_state import SavedDeparted, SavedRollout, SavedState, SavedWorker
from velocity_edge.wire import messages
from velocity_edge.wire.messages import Listener


def left_behind(
    node: State,
    processes: Mapping[int, tuple[int, int]],
    *,
    boot_id: str,
    cpus: list[int],
    listeners: list[Listener],
    last_revision: int,
    config: dict[str, Any],
    roll: bool = False,
) -> SavedState:
    """Return what a successor must know.

    *processes*: worker id -> pid and start time. *config* is the revision in use, *last_revision* the newest number.
    *roll*: the successor is to replace the workers.
    """
    rollout = node.rollout if node.rollout and node.rollout.running else None
    return SavedState(
        boot_id=boot_id,
        cores=node.settings.cores,
        cpus=cpus,
        target=node.target,
        next_id=node.ids.next_id,
        revision=node.revision,
        listeners=listeners,
        workers=[
            SavedWorker(
                worker.worker_id,
                worker.core,
                worker.slot,
                *processes[worker.worker_id],
                worker.leaving,
                worker.leave_by_s,
            )
            for worker in node.workers.values()
            if worker.worker_id in processes
        ],
        departed=[SavedDeparted(i, d.core, d.slot, d.until_s) for i, d in node.departed.items()],
        quiesced=node.quiesced or node.quiesce_first,
        accepting=list(node.routes.accepting),
        roll=roll,
        drain=replace(node.contract) if node.contract else None,
        adoptions=node.adoptions,
        rollout=SavedRollout(rollout.cores, rollout.newcomer) if rollout else None,
        last_revision=last_revision,
        config=config,
    )


def worth_keeping(hello: messages.Hello) -> bool:
    """Whether a worker with this Hello may stay: it speaks our protocol, and it has served."""
    # Without a revision it never served: it has no connections.
    return messages.speaks(hello) and hello.revision > 0


def started(
    saved: SavedState,
    came: Mapping[int, messages.Hello],
    lent: Iterable[int],
    settings: Settings,
    now_s: float,
    *,
    roll: bool,
) -> Started:
    """Return the first happening of the node.

    *came*: worker id -> Hello of each worker that is kept; the others are dead. *lent*: the ids that steering knows.
    *roll*: all workers are to be replaced.
    """
    adopted = tuple(
        Adopted(s.worker_id, s.core, s.slot, came[s.worker_id], s.leaving, s.leave_by_s)
        for s in saved.workers
        if s.worker_id in came
    )
    departed = {d.worker_id: _departed(d.core, d.slot, d.until_s, settings) for d in saved.departed}
    # When they died is not known: their quarantine begins now.
    until_s = now_s + settings.quarantine_s
    for s in saved.workers:
        if s.worker_id not in came:
            departed[s.worker_id] = _departed(s.core, s.slot, until_s, settings)
    rolling = Rolling(tuple(saved.rollout.cores), saved.rollout.newcomer) if saved.rollout else None
    if roll:
        rolling = Rolling(tuple(range(saved.target)), None)
    return Started(
        adopted,
        departed,
        tuple(worker_id for worker_id in saved.accepting if worker_id in departed),
        saved.quiesced,
        contract=saved.drain and replace(saved.drain),
        adoptions=saved.adoptions,
        rolling=rolling,
        lent=tuple(lent),
    )


def _departed(core: int, slot: int, until_s: float, settings: Settings) -> Departed:
    # A node that begins without workers may have fewer cores than before.
    return Departed(core, slot, until_s) if core < settings.cores else Departed(0, 0, until_s)
