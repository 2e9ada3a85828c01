"""What one worker has, and what its supervisor needs to know of it. Orders change it (worker.py); reports describe it.

The parts come one after the other: the sockets with `Equip`, the keys with `UseKeys`, the engine with the first
`Configure`. None means: not yet, or not now.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from velocity_edge import __version__
from velocity_edge.keys.table import EpochTable
from velocity_edge.wire import messages as m
from workers.drain.drain_run import DrainRun
from workers.drain.move_run import MoveRun
from workers.serve.serving import Equipment, Serving


@dataclass(frozen=True, slots=True)
class Identity:
    """Which worker this process is, by its command line, and which engine it serves with."""

    worker_id: int
    slot: int
    cpu: int
    engine_name: str
    #: Why this engine was chosen.
    engine_reason: str


@dataclass(slots=True)
class State:
    """The state of one worker."""

    identity: Identity
    equipment: Equipment | None = None
    #: Slot -> descriptors that are kept for a successor of the supervisor.
    kept: dict[int, list[int]] = field(default_factory=dict)
    table: EpochTable | None = None
    roster: m.Roster = field(default_factory=lambda: m.Roster({}))
    serving: Serving | None = None
    drain: DrainRun | None = None
    move: MoveRun | None = None

    def hello(self) -> m.Hello:
        """Return the first report to a supervisor."""
        active = self.serving.active if self.serving is not None else None
        return m.Hello(
            self.identity.worker_id,
            os.getpid(),
            self.identity.engine_name,
            self.identity.engine_reason,
            revision=active.number if active is not None else 0,
            draining=self.drain is not None,
            version=__version__,
            oldest_protocol=m.OLDEST_PROTOCOL,
        )

    def held(self) -> list[tuple[m.Held, Sequence[int]]]:
        """Return what a successor of the supervisor needs: the sockets of this worker's slot and of those it keeps."""
        held: list[tuple[m.Held, Sequence[int]]] = []
        slot, own = self.identity.slot, self.equipment
        if own is not None:
            held.append((m.Held(slot), own.held(slot)))
        # Last those that a supervisor waits for: this slot's, and those of the core's other one, which came first.
        return [(m.Held(slot), kept) for slot, kept in reversed(self.kept.items())] + held

    def keep(self, slot: int, descriptors: list[int]) -> None:
        """Keep the sockets of another slot, in place of those that were kept for it before."""
        for fd in self.kept.get(slot, ()):
            os.close(fd)
        self.kept[slot] = descriptors

    @property
    def drained(self) -> bool:
        """Whether no connection is left and no new one is accepted."""
        return self.drain is not None and self.drain.plan.over

    @property
    def phase(self) -> str:
        """The state in the process title."""
        if self.serving is None or self.serving.active is None:
            return "starting"
        if self.drain is not None:
            return "drained" if self.drained else "draining"
        return "serving"

    @property
    def established(self) -> int:
        """Number of connections whose handshake is complete."""
        return len(self.serving.exchanges.connections) if self.serving is not None else 0
