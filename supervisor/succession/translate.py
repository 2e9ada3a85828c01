"""What a supervisor leaves to the one after it, and what that one begins with: Node -> state.json -> `Started`. Pure.

Whom to keep is decided here, too. shell.py writes the file; adoption.py waits for the workers, kills the ones that are
not kept and collects their sockets; startup.py makes a `Node` that begins with this. tests/simulation cuts a supervisor
off between any two of its commands and goes on from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from supervisor.node.drain_contract import Contract, Phase, Terms
from supervisor.node.happenings import Adopted, Departed, Quiesce, QuiesceMode, Rolling, Started
from supervisor.node.requests import Requests, Settings
from supervisor.succession.state_file import (
    SavedDeparted,
    SavedDrain,
    SavedQuiesce,
    SavedRollout,
    SavedState,
    SavedWorker,
)
from velocity_edge.wire import messages as m
from velocity_edge.wire.messages import Listener


def left_behind(
    node: Requests,
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
    *roll*: whoever adopts the workers is to replace them.
    """
    quiesced = node.quiesced or node.quiesce_first
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
            SavedWorker(v.worker_id, v.core, v.slot, *processes[v.worker_id], v.leaving, v.leave_by_s)
            for v in node.workers.values()
            if v.worker_id in processes
        ],
        departed=[SavedDeparted(i, d.core, d.slot, d.until_s) for i, d in node.departed.items()],
        quiesced=saved_quiesce(quiesced) if quiesced else None,
        accepting=list(node.routes.accepting),
        roll=roll,
        drain=None if node.contract is None else saved_drain(node.contract),
        adoptions=node.adoptions,
        rollout=SavedRollout(rollout.cores, rollout.newcomer) if rollout else None,
        last_revision=last_revision,
        config=config,
    )


def saved_drain(drain: Contract) -> SavedDrain:
    """Return what is written of a drain."""
    t = drain.terms
    return SavedDrain(
        reason=t.reason,
        settle_below_per_s=t.settle_below_per_s,
        settle_s=t.settle_s,
        announce_max_s=t.announce_max_s,
        spread_s=t.spread_s,
        max_wait_s=t.max_wait_s,
        since_s=drain.since_s,
        phase=drain.phase,
        phase_since_s=drain.phase_since_s,
        proof=drain.proof,
        error=drain.error,
        lost=drain.lost,
        cut=drain.cut,
        was_quiesced=drain.was_quiesced,
        ordered=drain.ordered,
        released=drain.released,
        file_there=drain.file_there,
    )


def drain_of(saved: SavedDrain | None) -> Contract | None:
    """Return it as it was; arrivals are measured anew, because nobody counted meanwhile.

    None: it is in a phase that only a later version has. The node stays quiesced, as an operator wanted it.
    """
    if saved is None or saved.phase not in set(Phase):
        return None
    return Contract(
        Terms(
            saved.reason,
            saved.settle_below_per_s,
            saved.settle_s,
            saved.announce_max_s,
            saved.spread_s,
            saved.max_wait_s,
        ),
        saved.since_s,
        Phase(saved.phase),
        saved.phase_since_s,
        saved.proof,
        saved.error,
        saved.lost,
        saved.cut,
        was_quiesced=saved.was_quiesced,
        ordered=saved.ordered,
        said=Phase(saved.phase),
        released=saved.released,
        file_there=saved.file_there,
    )


def saved_quiesce(wish: Quiesce) -> SavedQuiesce:
    """Return what is written of an operator's wish."""
    return SavedQuiesce(
        wish.mode,
        wish.reason,
        wish.announce_s,
        wish.spread_s,
        wish.deadline_s,
        wish.since_s or 0.0,
    )


def quiesce_of(saved: SavedQuiesce | None) -> Quiesce | None:
    """Return the wish again."""
    if saved is None:
        return None
    # A mode that only a later version has: the node stays out, as an operator wanted it.
    known = saved.mode in set(QuiesceMode)
    return Quiesce(
        QuiesceMode(saved.mode) if known else QuiesceMode.GRACEFUL,
        saved.reason,
        saved.announce_s,
        saved.spread_s,
        saved.deadline_s,
        saved.since_s,
    )


def worth_keeping(hello: m.Hello) -> bool:
    """Whether a worker that said this to the successor may stay: it speaks our protocol, and it has served."""
    # Without a revision it never served: there is nothing in it that would be missed.
    return m.speaks(hello) and hello.revision > 0


def started(
    saved: SavedState,
    came: Mapping[int, m.Hello],
    lent: Iterable[int],
    settings: Settings,
    now_s: float,
    *,
    roll: bool,
) -> Started:
    """Return what the Node begins with.

    *came*: worker id -> Hello of each worker that is kept; the others are dead. *lent*: the ids that steering knows.
    *roll*: all of them are to be replaced.
    """
    adopted = tuple(
        Adopted(s.worker_id, s.core, s.slot, came[s.worker_id], s.leaving, s.leave_by_s)
        for s in saved.workers
        if s.worker_id in came
    )
    departed = {d.worker_id: _departed(d.core, d.slot, d.until_s, settings) for d in saved.departed}
    # When they died nobody saw: their quarantine begins now.
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
        quiesce_of(saved.quiesced),
        contract=drain_of(saved.drain),
        adoptions=saved.adoptions,
        rolling=rolling,
        lent=tuple(lent),
    )


def _departed(core: int, slot: int, until_s: float, settings: Settings) -> Departed:
    """A node that begins without workers may have fewer cores than before."""
    return Departed(core, slot, until_s) if core < settings.cores else Departed(0, 0, until_s)
