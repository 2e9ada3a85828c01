"""Simulated workers with faults, and a virtual clock: one machine below its supervisor (world.py).

A worker carries out orders in sequence, with delays; it may crash, hang, close its channel, send invalid messages,
refuse, or not stop. Without a supervisor it serves on, connects to the successor and sends Hello again, as
workers/process/supervision.py does.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.node.happenings import Broke, Exited, Happening, HungUp, Reported
from velocity_edge.keys.table import CID_CONFIGS
from velocity_edge.wire import messages

HEARTBEAT_EVERY_S = 7.0
QUARANTINE_S = 20.0
BEHAVIOURS = ["good"] * 8 + ["crash", "mute", "hangs", "does not stop", "hangs up", "sends junk", "refuses", "busy"]


@dataclass(slots=True)
class Process:
    """A simulated worker."""

    pid: int
    worker_id: int
    slot: int
    core: int
    behaviour: str
    prepared: dict[int, int] = field(default_factory=dict)
    #: The revision that it serves, and what is in it.
    revision: int = 0
    content: int = 0
    epochs: tuple[int, ...] = ()
    seal_with: int = 0
    #: Epochs whose connection IDs it decodes, and those that connections of it hold ids of.
    decodes: frozenset[int] = frozenset()
    held: set[int] = field(default_factory=set)
    draining: bool = False
    drains: int = 0
    #: When it was told to leave for good; None: it was not.
    dismissed_s: float | None = None
    #: It leaves because fewer workers are wanted.
    surplus: bool = False
    #: It was told to stop: it takes no request any more.
    stopping: bool = False
    #: Its loop hangs: it carries out no order and sends nothing.
    silent: bool = False
    #: Its loop is so busy that heartbeats do not come; it makes progress.
    busy: bool = False
    #: The supervisor that it is connected to, by number; 0: none.
    reports_to: int = 1
    #: Orders that it has received and not yet carried out.
    inbox: list[Callable[[], None]] = field(default_factory=list)
    hello: messages.Hello | None = None
    #: Its reports to a successor that still waits for other workers.
    later: list[messages.Report] = field(default_factory=list)


class Machine:
    """Processes, steering, a clock, and what has happened so far."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.cores = self.dice.randint(1, 4)
        self.now_s = 0.0
        self.order = itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.story: list[tuple[float, object]] = []
        self.pids = itertools.count(100)
        self.alive: dict[int, Process] = {}
        #: Until when packets for a dead worker may come.
        self.dead_until: dict[int, float] = {}
        #: Until when ids of these epochs may come, of processes that are dead.
        self.dead_held: list[tuple[float, set[int]]] = []
        self.bad_contents: set[int] = set()
        #: The supervisor, by number, and the processes whose end it will hear of: worker id -> pid.
        self.supervisor = 0
        self.waiting = True
        self.attached: dict[int, int] = {}
        self.trouble = True
        self.quit: int | None = None

    def happen(self, happening: Happening) -> bool:
        """Give it to the node."""
        raise NotImplementedError

    def spawned(self, process: Process) -> None:
        """For invariants.py."""

    # --- time ---

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now_s + delay_s, next(self.order), what))

    def run_until(self, end_s: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until *end_s*, or until it is *enough*."""
        looked_s = self.now_s
        while self.events and self.events[0][0] <= end_s and self.quit is None:
            self.now_s, _, what = heapq.heappop(self.events)
            what()
            if self.now_s > looked_s + 1.0:
                looked_s = self.now_s
                if enough():
                    return
        if self.quit is None:
            self.now_s = max(self.now_s, end_s)

    def tell(self) -> str:
        """Return the end of the story."""
        return "\n".join(f"{when:8.2f} {what}" for when, what in self.story[-200:])

    # --- processes ---

    def lives(self, process: Process) -> bool:
        return self.alive.get(process.worker_id) is process

    def attached_process(self, worker_id: int) -> Process | None:
        process = self.alive.get(worker_id)
        return process if process and self.attached.get(worker_id) == process.pid else None

    def spawn(self, worker_id: int, slot: int, core: int) -> None:
        behaviour = self.dice.choice(BEHAVIOURS) if self.trouble else "good"
        process = Process(next(self.pids), worker_id, slot, core, behaviour, reports_to=self.supervisor)
        self.spawned(process)
        self.alive[worker_id] = process
        self.attached[worker_id] = process.pid
        soon = self.dice.expovariate(0.1)
        match behaviour:
            case "crash":
                self.later(soon, lambda: self.end_of(process, -11))
            case "hangs":
                self.later(soon, lambda: setattr(process, "silent", True))
            case "busy":
                self.later(soon, lambda: setattr(process, "busy", True))
                self.later(soon + self.dice.uniform(5.0, 60.0), lambda: setattr(process, "busy", False))
            case "hangs up":
                self.later(soon, lambda: self.hang_up(process))
            case "sends junk":
                self.later(soon, lambda: self.from_it(process, Broke(worker_id, "junk")))
        if behaviour != "mute":
            self.later(self.dice.uniform(0.1, 2.0), lambda: self.say_hello(process))

    def progress(self) -> dict[int, int]:
        """Return what the supervisor sees in slabs: it changes while a loop turns."""
        return {i: 0 if process.silent else int(self.now_s * 4) for i, process in self.alive.items()}

    def from_it(self, process: Process, happening: Happening) -> None:
        """Something of this process reaches the supervisor that it is attached to."""
        if self.attached_process(process.worker_id) is process:
            self.happen(happening)

    def say(self, process: Process, report: messages.Report, to: int | None = None) -> None:
        """A report; *to* the supervisor whose order it answers."""
        if process.silent or not self.lives(process) or process.reports_to != (to or process.reports_to):
            return
        if process.reports_to != self.supervisor:
            return
        if self.waiting:
            process.later.append(report)
        else:
            self.from_it(process, Reported(process.worker_id, report))

    def hang_up(self, process: Process) -> None:
        process.silent = True
        self.from_it(process, HungUp(process.worker_id))

    def end(self, worker_id: int, status: int) -> None:
        if process := self.alive.get(worker_id):
            self.end_of(process, status)

    def end_of(self, process: Process, status: int) -> None:
        """It dies; the supervisor hears of it a moment later."""
        if not self.lives(process):
            return
        if self.dice.random() < 0.5 and not process.silent:
            self.later(0.0, lambda: self.hang_up(process))
        process.silent = True
        self.later(self.dice.uniform(0.0, 0.01), lambda: self.gone(process, status))

    def gone(self, process: Process, status: int) -> None:
        if self.lives(process):
            attached = self.attached_process(process.worker_id) is process
            self.vanish(process)
            if attached:
                del self.attached[process.worker_id]
                self.happen(Exited(process.worker_id, status))

    def vanish(self, process: Process) -> None:
        """Remove it; the supervisor does not necessarily learn of it."""
        if self.lives(process):
            del self.alive[process.worker_id]
            if process.revision:
                self.dead_until[process.worker_id] = self.now_s + QUARANTINE_S
                self.dead_held.append((self.now_s + QUARANTINE_S, process.held))

    # --- what a worker does ---

    def order_to(self, worker_id: int, longest_s: float, obey: Callable[[Process], None]) -> None:
        """The worker obeys within *longest_s*, in the order of orders."""
        process = self.attached_process(worker_id)
        if process is None:
            return

        def take() -> None:
            if self.lives(process) and not process.silent:
                obey(process)

        if longest_s == 0 and not process.inbox:
            take()
            return
        process.inbox.append(take)
        self.later(self.dice.uniform(0, longest_s), lambda: self.obey_next(process))

    def obey_next(self, process: Process) -> None:
        if process.inbox:
            process.inbox.pop(0)()

    def say_hello(self, process: Process) -> None:
        self.say(process, messages.Hello(process.worker_id, process.pid, "portable", "test"))
        self.beat(process)

    def beat(self, process: Process) -> None:
        if self.lives(process) and self.quit is None:
            # Clients connect and leave; they keep their ids when other epochs seal.
            if process.revision and self.dice.random() < 0.5:
                process.held.add(process.seal_with)
            if self.dice.random() < (0.05 if self.trouble else 0.9):
                process.held.clear()
            counts = {epoch % CID_CONFIGS: 1 for epoch in process.held}
            if not process.busy:
                self.say(process, messages.Heartbeat(1, 0, 0, 0.1, 1, counts))
            self.later(HEARTBEAT_EVERY_S, lambda: self.beat(process))

    def use_keys(self, process: Process, epochs: tuple[int, ...], seal_with: int, decodes: frozenset[int]) -> None:
        process.epochs, process.seal_with, process.decodes = epochs, seal_with, decodes
        self.say(process, messages.KeysInUse(list(epochs), seal_with, []))

    def prepare(self, process: Process, revision: int, content: int) -> None:
        if content in self.bad_contents or (process.behaviour == "refuses" and self.dice.random() < 0.5):
            self.say(process, messages.Refused(revision, "cannot use it"))
        else:
            process.prepared = {revision: content}
            self.say(process, messages.Prepared(revision))

    def obey(self, process: Process, order: messages.Order) -> None:
        match order:
            case messages.Activate(revision):
                assert revision in process.prepared, "invariant 4: it was never prepared"
                process.revision, process.content = revision, process.prepared[revision]
                supervisor = process.reports_to
                self.later(0.01, lambda: self.say(process, messages.Ready(revision), supervisor))
            case messages.Drain(deadline_s, _, discourage):
                process.draining = True
                process.drains += 1
                drain = process.drains
                if not discourage:
                    self.later(min(deadline_s, self.dice.expovariate(0.1)), lambda: self.drained(process, drain))
            case messages.Resume():
                process.draining = False
                process.drains += 1
            case messages.Stop():
                process.stopping = True
                if process.behaviour != "does not stop":
                    self.later(0.05, lambda: self.end_of(process, 0))

    def drained(self, process: Process, drain: int) -> None:
        if process.drains == drain:
            self.say(process, messages.Drained(0))
