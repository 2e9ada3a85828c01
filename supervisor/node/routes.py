"""Which slot gets the packets of each worker id, and which workers get new connections. Pure.

Both are functions of the workers' states.
`desired_*` compute what steering and rosters should be; `Routes.update` returns the commands that lead there.

- Packets for the id of a live worker go to its slot.
- Packets for the id of a dead worker go to the worker that serves its core now, until none can come any more: that
  worker answers with stateless resets, so that clients reconnect at once instead of waiting for a timeout.
- New connections go to the ready workers that stay. While there is none they keep going where they went before, or go
  to workers that start: they wait in that slot's socket for the successor. A node that quiesces or stops accepts none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from supervisor.node.commands import Accept, Command, Forget, Lend, Tell
from supervisor.node.happenings import Departed
from supervisor.node.lifecycle import WorkerState
from supervisor.node.worker import Worker
from velocity_edge.wire import messages
from velocity_edge.wire.cid import MAX_WORKER_ID

#: No slot and no core.
NOWHERE: Final = (-1, -1)


def current_worker(workers: Iterable[Worker], core: int) -> Worker | None:
    """Return the worker of *core* that stays: a ready one before one that still starts."""
    ranks = {WorkerState.READY: 0, WorkerState.DRAINING: 1, WorkerState.STARTING: 2}
    staying = [worker for worker in workers if worker.core == core and not worker.doomed]
    return min(staying, key=lambda worker: (ranks[worker.state], worker.worker_id), default=None)


def desired_known(workers: Mapping[int, Worker], departed: Mapping[int, Departed]) -> dict[int, tuple[int, int]]:
    """Return worker id -> (slot, core) for every id that a packet may carry."""
    known = {worker.worker_id: (worker.slot, worker.core) for worker in workers.values()}
    staying = [worker for worker in workers.values() if not worker.doomed]
    for worker_id, gone in departed.items():
        current = current_worker(workers.values(), gone.core)
        current = current or min(staying, key=lambda worker: worker.core, default=None)
        known[worker_id] = (current.slot, current.core) if current else (gone.slot, gone.core)
    return known


def desired_accepting(
    workers: Mapping[int, Worker], *, accepts: bool, before: tuple[int, ...], known: Mapping[int, tuple[int, int]]
) -> tuple[int, ...]:
    """Return the workers that take new connections, given whether the node *accepts* and which ones did *before*."""
    if not accepts:
        return ()
    ready = tuple(sorted(worker.worker_id for worker in workers.values() if worker.serving and not worker.doomed))
    waiting = tuple(worker_id for worker_id in before if worker_id in known)
    return ready or waiting or tuple(sorted(worker.worker_id for worker in workers.values() if not worker.doomed))


def desired_roster(workers: Mapping[int, Worker], next_id: int) -> messages.Roster:
    """Return what workers should know of each other; *next_id* is lent to the next one."""
    alive = {
        worker.worker_id: worker.slot
        for worker in workers.values()
        if worker.hello and worker.state is not WorkerState.KILLED
    }
    # Lent, but not in the roster yet: the next roster has them before they serve.
    coming = [worker.worker_id for worker in workers.values() if not worker.hello]
    return messages.Roster(
        alive, max(coming, key=lambda worker_id: (next_id - worker_id) % MAX_WORKER_ID, default=next_id)
    )


@dataclass(slots=True)
class Routes:
    """The present state of steering."""

    known: dict[int, tuple[int, int]] = field(default_factory=dict)
    accepting: tuple[int, ...] = ()
    #: Whether steering has `accepting`: an earlier supervisor may have been killed before it set it.
    told: bool = False

    def begin_with(self, lent: Iterable[int]) -> None:
        """Steering knows these ids, with slots that are not known here: the ids of no worker will be forgotten."""
        self.known = dict.fromkeys(lent, NOWHERE)

    def update(
        self, workers: Mapping[int, Worker], departed: Mapping[int, Departed], *, accepts: bool, next_id: int
    ) -> tuple[list[Command], list[Command]]:
        """Return the commands to carry out before all others, and those to carry out after them.

        Before: an id is known before its worker exists, and new connections go elsewhere before a worker is told to
        drain. After: rosters, which a worker that has just been equipped must not get earlier.
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
