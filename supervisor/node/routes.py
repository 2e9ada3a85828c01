"""Which slot each worker id leads to, and who takes new connections: a function of the workers' states, nothing else.

`desired_*` compute what steering and rosters should say; `Routes.update` returns the commands that take them there. The
rules:

- A living worker's id leads to its slot.
- A dead worker's id leads to whoever serves its core now, until no packet for it can come: that worker answers with
  stateless resets, so that clients reconnect at once instead of waiting for a time-out.
- New connections go to the ready workers that stay. While there is none they go on to where they went before, or to
  those that start: they wait in that slot's socket for the successor. A node that quiesces or stops accepts none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from supervisor.node.commands import Accept, Command, Forget, Lend, Tell
from supervisor.node.happenings import Departed
from supervisor.node.lifecycle import WorkerState
from supervisor.node.worker import Worker
from velocity_edge.wire import messages as m
from velocity_edge.wire.cid import MAX_WORKER_ID

#: No slot and no core.
NOWHERE: Final = (-1, -1)


def current_worker(workers: Iterable[Worker], core: int) -> Worker | None:
    """Return the worker of *core* that stays: a ready one before one that still starts."""
    ranks = {WorkerState.READY: 0, WorkerState.DRAINING: 1, WorkerState.STARTING: 2}
    staying = [w for w in workers if w.core == core and not w.doomed]
    return min(staying, key=lambda w: (ranks[w.state], w.worker_id), default=None)


def desired_known(workers: Mapping[int, Worker], departed: Mapping[int, Departed]) -> dict[int, tuple[int, int]]:
    """Return worker id -> (slot, core) for every id that a packet may carry."""
    known = {w.worker_id: (w.slot, w.core) for w in workers.values()}
    staying = [w for w in workers.values() if not w.doomed]
    for worker_id, gone in departed.items():
        heir = current_worker(workers.values(), gone.core) or min(staying, key=lambda w: w.core, default=None)
        known[worker_id] = (heir.slot, heir.core) if heir else (gone.slot, gone.core)
    return known


def desired_accepting(
    workers: Mapping[int, Worker], *, accepts: bool, before: tuple[int, ...], known: Mapping[int, tuple[int, int]]
) -> tuple[int, ...]:
    """Return who takes new connections, given whether the node *accepts* and who did *before*."""
    if not accepts:
        return ()
    ready = tuple(sorted(w.worker_id for w in workers.values() if w.serving and not w.doomed))
    waiting = tuple(worker_id for worker_id in before if worker_id in known)
    return ready or waiting or tuple(sorted(w.worker_id for w in workers.values() if not w.doomed))


def desired_roster(workers: Mapping[int, Worker], next_id: int) -> m.Roster:
    """Return what workers should know of each other; *next_id* is the one that will be lent next."""
    alive = {w.worker_id: w.slot for w in workers.values() if w.hello and w.state is not WorkerState.KILLED}
    # Lent, but not in the roster yet: the next roster has them before they serve.
    coming = [w.worker_id for w in workers.values() if not w.hello]
    return m.Roster(alive, max(coming, key=lambda worker_id: (next_id - worker_id) % MAX_WORKER_ID, default=next_id))


@dataclass(slots=True)
class Routes:
    """What steering was told."""

    known: dict[int, tuple[int, int]] = field(default_factory=dict)
    accepting: tuple[int, ...] = ()
    #: Whether `accepting` is what steering does: not yet where an earlier supervisor may have been cut off.
    told: bool = False

    def begin_with(self, lent: Iterable[int]) -> None:
        """Take in that these ids lead somewhere, who knows where: those that are not ours will be forgotten."""
        self.known = dict.fromkeys(lent, NOWHERE)

    def update(
        self, workers: Mapping[int, Worker], departed: Mapping[int, Departed], *, accepts: bool, next_id: int
    ) -> tuple[list[Command], list[Command]]:
        """Return the commands to carry out before everything else, and those after it.

        Before: an id is known before its worker exists, and new connections have gone elsewhere before a worker is
        told to drain. After: rosters, which a worker that has just been equipped must not get earlier.
        """
        known = desired_known(workers, departed)
        accepting = desired_accepting(workers, accepts=accepts, before=self.accepting, known=known)
        first: list[Command] = [Lend(i, *place) for i, place in known.items() if self.known.get(i) != place]
        if accepting != self.accepting or not self.told:
            first.append(Accept(accepting))
            self.told = True
        first += [Forget(i) for i in self.known if i not in known]
        self.known, self.accepting = known, accepting

        roster = desired_roster(workers, next_id)
        last: list[Command] = []
        for worker in workers.values():
            if worker.hello and worker.state is not WorkerState.KILLED and worker.roster != roster:
                worker.roster = roster
                last.append(Tell(worker.worker_id, roster))
        return first, last
