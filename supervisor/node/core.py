"""A core: the place of one current worker, with two slots, `core` and `core + cores`. Pure.

Decides how long a core waits before it starts another worker, which of its slots are free, and which workers keep the
slots of a core that has no worker.

Back-off: a worker that served for a while and then crashed is replaced at once, because clients wait. A worker that
crashes again soon, or never became ready, is tried at growing intervals, so that a broken node is not also a busy one.

Keepers: a worker holds its own slot and the other slot of its core (`commands.Equip`). The two slots of a core without
a worker (fewer workers than cores, scaled down, between a crash and the successor) are held by the supervisor only:
when it ends, their sockets close and the reuseport group is renumbered, which in tier A sends the packets of all
connections to other workers. So two workers of other cores keep them, too: two, because one may end together with the
supervisor. Slots are never taken back: another copy does no harm, and the copy of the slot's own worker takes
precedence (adoption.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from supervisor.node.commands import Command, Keep
from supervisor.node.lifecycle import WorkerState
from supervisor.node.worker import Worker

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 30.0
#: A worker that served this long is stable: earlier failures of its core are forgotten.
STABLE_S: Final = 60.0
_KEEPERS: Final = 2


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
        # 2**7 * FIRST_DELAY_S is beyond the maximum; the bound keeps many failures from overflowing a float.
        return float(min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(steps - 1, 7)))


@dataclass(slots=True)
class Core:
    """What is known of one core."""

    index: int
    backoff: Backoff = field(default_factory=Backoff)
    #: When the next worker is started here, and in which slot.
    respawn_s: float | None = None
    respawn_slot: int = 0
    #: Consecutive workers that never became ready.
    start_failures: int = 0
    restarts: int = 0


def other_slot(slot: int, cores: int) -> int:
    """Return the other slot of the core that *slot* belongs to."""
    return slot + cores if slot < cores else slot - cores


def free_slots(core: int, cores: int, workers: Mapping[int, Worker]) -> list[int]:
    """Return the slots of *core* that no worker sits in."""
    taken = {worker.slot for worker in workers.values()}
    return [slot for slot in (core, core + cores) if slot not in taken]


def keep_idle_slots(workers: Mapping[int, Worker], cores: int) -> list[Command]:
    """Return the commands that give keepers the slots of cores without a worker, each once; note what was given."""
    # A worker that has not served yet ends with the supervisor.
    serving = [worker for worker in workers.values() if worker.ready_s is not None]
    serving = [worker for worker in serving if worker.state is not WorkerState.KILLED]
    held = {worker.core for worker in serving}
    keepers = sorted((worker for worker in serving if not worker.doomed), key=lambda worker: worker.worker_id)
    given: list[Command] = []
    for core in range(cores):
        if core in held:
            continue
        for keeper in keepers[:_KEEPERS]:
            for slot in sorted({core, core + cores} - keeper.keeps):
                keeper.keeps.add(slot)
                given.append(Keep(keeper.worker_id, slot))
    return given
