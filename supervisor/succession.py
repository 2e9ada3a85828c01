"""What a supervisor leaves to the one after it, and what that one begins with: Node -> state.json -> `Started`. Pure.

Whom to keep is decided here, too. shell.py writes the file; adoption.py waits for the workers, kills the ones that are
not kept and collects their sockets; startup.py makes a `Node` that begins with this. tests/simulation cuts a supervisor
off between any two of its commands and goes on from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor import words as w
from supervisor.contract import Contract, Phase, Terms
from supervisor.requests import Requests
from supervisor.state import SavedDeparted, SavedDrain, SavedQuiesce, SavedState, SavedWorker
from velocity_edge import messages as m
from velocity_edge.messages import Listener


def left_behind(
    node: Requests,
    processes: Mapping[int, tuple[int, int]],
    *,
    boot_id: str,
    cpus: list[int],
    listeners: list[Listener],
    revision: int,
    roll: bool = False,
) -> SavedState:
    """Return what a successor must know. *processes*: worker id -> pid and start time; *revision*: the last one.

    *roll*: whoever adopts the workers is to replace them.
    """
    quiesced = node.quiesced
    return SavedState(
        boot_id=boot_id,
        cores=node.settings.cores,
        cpus=cpus,
        target=node.target,
        next_id=node.ids.next_id,
        revision=revision,
        listeners=listeners,
        workers=[
            SavedWorker(v.worker_id, v.core, v.slot, *processes[v.worker_id], v.leaving)
            for v in node.workers.values()
            if v.worker_id in processes
        ],
        departed=[SavedDeparted(i, d.core, d.slot, d.until_s) for i, d in node.departed.items()],
        quiesced=None
        if quiesced is None
        else SavedQuiesce(
            quiesced.mode,
            quiesced.reason,
            quiesced.announce_s,
            quiesced.spread_s,
            quiesced.deadline_s,
            quiesced.since_s or 0.0,
        ),
        roll=roll,
        drain=None if node.contract is None else _saved_drain(node.contract),
        adoptions=node.adoptions,
    )


def _saved_drain(drain: Contract) -> SavedDrain:
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


def _drain(saved: SavedDrain) -> Contract | None:
    """Return it as it was; arrivals are measured anew, because nobody counted meanwhile.

    None: it is in a phase that only a later version has. The node stays quiesced, as an operator wanted it.
    """
    if saved.phase not in set(Phase):
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


def worth_keeping(hello: m.Hello) -> bool:
    """Whether a worker that said this to the successor may stay: it speaks our protocol, and it has served."""
    # Without a revision it never served: there is nothing in it that would be missed.
    return m.speaks(hello) and hello.revision > 0


def started(saved: SavedState, came: Mapping[int, m.Hello], now_s: float, quarantine_s: float) -> w.Started:
    """Return what the Node begins with. *came*: worker id -> Hello of each worker that is kept; the others are dead."""
    adopted = tuple(
        w.Adopted(s.worker_id, s.core, s.slot, came[s.worker_id], s.leaving)
        for s in saved.workers
        if s.worker_id in came
    )
    departed = {d.worker_id: w.Departed(d.core, d.slot, d.until_s) for d in saved.departed}
    # When they died nobody saw: their quarantine begins now.
    until_s = now_s + quarantine_s
    departed |= {s.worker_id: w.Departed(s.core, s.slot, until_s) for s in saved.workers if s.worker_id not in came}
    quiesced = None
    if q := saved.quiesced:
        mode = w.QuiesceMode(q.mode)
        quiesced = w.Quiesce(mode, q.reason, q.announce_s, q.spread_s, q.deadline_s, q.since_s)
    contract = _drain(saved.drain) if saved.drain else None
    return w.Started(adopted, departed, quiesced, contract, saved.adoptions)
