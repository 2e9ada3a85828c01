"""Whatever happens to workers, and whatever an operator asks for, in any order, a node keeps its promises:

1. A worker id names one process: it is never lent while another lives, or while packets for a dead one may come.
2. A slot has at most one living process, and a living worker's id always leads to its slot.
3. While the node serves and had somebody for new connections, it always has somebody, or somewhere for them to wait.
4. Nobody serves a revision that it did not prepare, and a refused revision changes nothing.
5. Nobody seals with an epoch that somebody alive and equipped does not hold.
6. A rolling restart asks a worker to leave only when another one of its core is ready. One rollout at a time.
7. When the trouble ends, everybody serves the node's revision again; a quiesce ends in quiesced or resumed.
8. A stop ends: all processes are gone, and the node quits once.
9. Whatever connection ID a living process's connection holds, or a dead one's held until its packets cannot come any
   more, decodes: in steering and in every process; and epochs that nobody needs make room for the next ones.

A node, pretend workers, a virtual clock and a seed. A failure prints the seed: `SEED=1234 pytest tests/simulation`.
"""

import heapq
import itertools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from supervisor import words as w
from supervisor.lifecycle import NodeState, WorkerState
from supervisor.node import Node
from supervisor.requests import Settings
from velocity_edge import messages as m
from velocity_edge.errors import CannotDo

ONE_SEED = [int(os.environ["SEED"])] if "SEED" in os.environ else None
TROUBLE_S = 150.0


@dataclass
class Process:
    """A pretend worker, with a character."""

    worker_id: int
    slot: int
    core: int
    character: str
    connections: int = 0
    prepared: set[int] = field(default_factory=set)
    revision: int = 0
    epochs: set[int] = field(default_factory=set)
    #: What it seals with, the epochs whose ids it decodes, and those that connections of it hold ids of.
    seal_with: int = 0
    decodes: frozenset[int] = frozenset()
    held: set[int] = field(default_factory=set)
    draining: bool = False
    silent: bool = False
    orders: list[tuple[int, frozenset[int], tuple[int, ...], int]] = field(default_factory=list)


class World:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        cores = self.dice.randint(1, 4)
        settings = Settings(cores, quarantine_s=self.dice.choice([3.0, 40.0]))
        self.node = Node(settings, target=self.dice.randint(1, cores), epochs=(1,), seal_with=1)
        # So few ids that they come round.
        self.node.ids.last = 20
        self.now_s = 0.0
        self.order = itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.alive: dict[int, Process] = {}
        self.dead_until: dict[int, float] = {}
        #: Until when ids of these epochs may come, of processes that are dead.
        self.dead_held: list[tuple[float, set[int]]] = []
        self.decodes: frozenset[int] = frozenset({1})
        self.most_epochs = 0
        self.known: dict[int, int] = {}
        self.accepting: tuple[int, ...] = ()
        self.had_somebody = False
        self.bad_revisions: set[int] = set()
        self.revisions = itertools.count(2)
        self.trouble = True
        self.quit: int | None = None
        self.tick_s: float | None = None
        self.ticked_s, self.ticks_now = -1.0, 0
        self.story: list[str] = []

    # --- time

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now_s + delay_s, next(self.order), what))

    def run_until(self, end_s: float) -> None:
        while self.events and self.events[0][0] <= end_s and self.quit is None:
            self.now_s, _, what = heapq.heappop(self.events)
            what()
        if self.quit is None:
            self.now_s = max(self.now_s, end_s)

    def happen(self, happening: w.Happening) -> None:
        if self.quit is not None:
            return
        if not isinstance(getattr(happening, "report", None), m.Heartbeat):
            self.story.append(f"{self.now_s:8.2f} >> {happening}")
        try:
            commands = self.node.handle(happening, self.now_s)
        except CannotDo as refusal:
            self.story.append(f"{self.now_s:8.2f} << {refusal}")
            return
        for command in commands:
            self.story.append(f"{self.now_s:8.2f} << {command}")
            self.do(command)
        self.check()
        self.arm()

    def arm(self) -> None:
        due_s = self.node.next_deadline_s()
        if due_s is not None and self.quit is None and (self.tick_s is None or due_s < self.tick_s):
            self.tick_s = due_s
            self.later(max(0.0, due_s - self.now_s), lambda: self.tick(due_s))

    def tick(self, due_s: float) -> None:
        if self.tick_s != due_s:
            return  # another one was due earlier
        self.tick_s = None
        self.happen(w.Ticked())
        self.ticks_now = self.ticks_now + 1 if self.now_s == self.ticked_s else 0
        self.ticked_s = self.now_s
        assert self.ticks_now < 3, "a deadline that no tick removes"

    # --- the hands

    def do(self, command: w.Command) -> None:
        match command:
            case w.Spawn(worker_id, slot, core):
                self.spawn(worker_id, slot, core)
            case w.Kill(worker_id):
                self.die(worker_id, -9)
            case w.Equip(worker_id, slot, keep):
                assert {slot, keep} == {self.alive[worker_id].core + n * self.node.settings.cores for n in (0, 1)}
                self.busy(worker_id, 0)
            case w.GiveKeys(worker_id, epochs, seal_with):
                self.keys(worker_id, epochs, seal_with)
            case w.GiveConfig(worker_id, revision):
                self.busy(worker_id, 1, lambda p: self.prepare(p, revision))
            case w.Tell(worker_id, order):
                self.busy(worker_id, 0, lambda p: self.obey(p, order))
            case w.Lend(worker_id, slot, _):
                self.known[worker_id] = slot
            case w.Forget(worker_id):
                assert worker_id not in self.alive
                del self.known[worker_id]
            case w.Accept(worker_ids):
                assert set(worker_ids) <= set(self.known)
                self.accepting = worker_ids
            case w.Quit(exit_code):
                assert self.quit is None
                assert not self.alive, "the node quits while somebody lives"
                self.quit = exit_code
            case w.UseCidKeys(epochs):
                assert len({epoch % 7 for epoch in epochs}) == len(epochs), "promise 9: two epochs, one config id"
                self.decodes = frozenset(epochs)
            case w.Activated() | w.Say():
                pass

    def spawn(self, worker_id: int, slot: int, core: int) -> None:
        assert worker_id not in self.alive, "promise 1"
        assert self.dead_until.get(worker_id, 0.0) <= self.now_s, "promise 1"
        assert slot not in {p.slot for p in self.alive.values()}, "promise 2"
        assert self.known[worker_id] == slot, "an id is known before its worker exists"
        characters = ["good"] * 8 + ["crash", "mute", "stuck", "stubborn", "hangs up", "babbles", "refuses"]
        process = Process(worker_id, slot, core, self.dice.choice(characters) if self.trouble else "good")
        self.alive[worker_id] = process
        if process.character == "crash":
            self.later(self.dice.expovariate(0.1), lambda: self.die(worker_id, -11))
        if process.character == "stuck":
            self.later(self.dice.expovariate(0.1), lambda: setattr(process, "silent", True))
        if process.character == "hangs up":
            self.later(self.dice.expovariate(0.1), lambda: self.hang_up(process))
        if process.character == "babbles":
            self.later(self.dice.expovariate(0.1), lambda: self.happen_from(process, w.Broke(worker_id, "junk")))
        if process.character != "mute":
            self.later(self.dice.uniform(0.1, 2.0), lambda: self.hello(process))

    def happen_from(self, process: Process, happening: w.Happening) -> None:
        if process.worker_id in self.alive:
            self.happen(happening)

    def say(self, process: Process, report: m.Report) -> None:
        if not process.silent:
            self.happen_from(process, w.Reported(process.worker_id, report))

    def hang_up(self, process: Process) -> None:
        process.silent = True
        self.happen_from(process, w.HungUp(process.worker_id))

    def die(self, worker_id: int, status: int) -> None:
        if worker_id not in self.alive:
            return

        def gone() -> None:
            if process := self.alive.pop(worker_id, None):
                if process.revision:
                    self.dead_held.append((self.now_s + self.node.settings.quarantine_s, process.held))
                    self.dead_until[worker_id] = self.now_s + self.node.settings.quarantine_s
                self.happen(w.Exited(worker_id, status))

        if self.dice.random() < 0.5 and not self.alive[worker_id].silent:
            self.hang_up(self.alive[worker_id])
        self.alive[worker_id].silent = True
        self.later(self.dice.uniform(0.0, 0.01), gone)

    # --- what a worker does

    def busy(self, worker_id: int, longest_s: float, then: Callable[[Process], None] = lambda _: None) -> None:
        process = self.alive[worker_id]

        def done() -> None:
            if worker_id in self.alive and not process.silent:
                then(process)

        if longest_s == 0:
            done()
        else:
            self.later(self.dice.uniform(0, longest_s), done)

    def hello(self, process: Process) -> None:
        self.say(process, m.Hello(process.worker_id, 4242, "portable", "test"))
        self.beat(process)

    def beat(self, process: Process) -> None:
        if process.worker_id in self.alive and self.quit is None:
            # Clients come, and leave; they keep their ids when others are sealed.
            if process.revision and self.dice.random() < 0.5:
                process.held.add(process.seal_with)
            if self.dice.random() < (0.05 if self.trouble else 0.9):
                process.held.clear()
            counts = {epoch % 7: 1 for epoch in process.held}
            self.say(process, m.Heartbeat(1, 0, 0, 0.1, 1, counts if process.character != "of before" else None))
            self.later(4.0, lambda: self.beat(process))

    def keys(self, worker_id: int, epochs: tuple[int, ...], seal_with: int) -> None:
        process = self.alive[worker_id]
        for other in self.alive.values():
            if (
                other.epochs
                and not other.silent
                and seal_with not in (other.epochs | (set(epochs) if other is process else set()))
            ):
                raise AssertionError(f"promise 5: {worker_id} is told to seal with {seal_with}, {other} lacks it")
        decodes = frozenset(self.node.cid_epochs)
        if not process.silent:
            process.epochs |= set(epochs)

        number = next(self.order)
        process.orders.append((number, decodes, epochs, seal_with))
        self.busy(worker_id, 0.5, lambda p: self.take_keys(p, number))

    def take_keys(self, process: Process, number: int) -> None:
        """Orders are carried out in the order in which they were sent, whenever the process comes to it."""
        while process.orders and process.orders[0][0] <= number:
            _, process.decodes, epochs, process.seal_with = process.orders.pop(0)
            self.say(process, m.KeysInUse(list(epochs), process.seal_with))

    def prepare(self, process: Process, revision: int) -> None:
        self.take_keys(process, next(self.order))  # they came before it
        if revision in self.bad_revisions or (process.character == "refuses" and self.dice.random() < 0.5):
            self.say(process, m.Refused(revision, "cannot use it"))
        else:
            process.prepared.add(revision)
            self.say(process, m.Prepared(revision))

    def obey(self, process: Process, order: m.Order) -> None:
        match order:
            case m.Activate(revision):
                assert revision in process.prepared, "promise 4"
                assert revision not in self.bad_revisions, "promise 4"
                process.revision = revision
                process.connections = self.dice.randint(0, 9)
                self.later(0.01, lambda: self.say(process, m.Ready(revision)))
            case m.Drain(deadline_s, _, discourage):
                self.check_leave(process)
                process.draining = True
                if not discourage:
                    self.later(min(deadline_s, self.dice.expovariate(0.1)), lambda: self.drained(process))
            case m.Resume():
                process.draining = False
            case m.Stop():
                if process.character != "stubborn":
                    self.later(0.05, lambda: self.die(process.worker_id, 0))

    def drained(self, process: Process) -> None:
        if process.draining:
            process.connections = 0
            self.say(process, m.Drained(0))

    # --- the promises

    def check_leave(self, process: Process) -> None:
        worker = self.node.workers[process.worker_id]
        scaled_down = worker.core >= self.node.target
        if worker.leaving and self.node.state is not NodeState.STOPPING and not scaled_down:
            others = [v for v in self.node.workers.values() if v.core == worker.core and v is not worker]
            assert any(v.serving and not v.doomed for v in others), "promise 6"

    def check(self) -> None:
        for process in self.alive.values():
            assert self.known[process.worker_id] == process.slot, "promise 2"
        self.dead_held = [(until_s, held) for until_s, held in self.dead_held if until_s > self.now_s]
        needed = [process.held for process in self.alive.values()] + [held for _, held in self.dead_held]
        assert set().union(*needed) <= self.decodes, "promise 9: steering"
        for process in self.alive.values():
            assert process.silent or not process.revision or set().union(*needed) <= process.decodes, "promise 9"
        self.most_epochs = max(self.most_epochs, len(self.decodes))
        assert set(self.accepting) <= set(self.known)
        serves = self.node.state is NodeState.SERVING
        if serves and self.had_somebody:
            assert self.accepting, "promise 3"
        if any(v.state is WorkerState.READY for v in self.node.workers.values()) and serves:
            assert any(i in self.alive for i in self.accepting) or not any(
                v.serving and not v.doomed for v in self.node.workers.values()
            ), "promise 3: somebody is ready and nobody accepts"
        self.had_somebody = serves and bool(self.accepting)

    def rotate(self) -> None:
        n = self.node
        if n.key_change or any(epoch % 7 == (n.seal_with + 1) % 7 for epoch in n.cid_epochs):
            return
        # Old ones leave the table as keys.expire has it: not while their ids are needed.
        number = n.announced or n.seal_with + 1
        kept = [epoch for epoch in n.epochs if epoch in n.cid_epochs or epoch > number - 4]
        self.happen(w.UseEpochs((number, *(epoch for epoch in kept if epoch != number)), number))

    def operate(self) -> None:
        if not self.trouble:
            return
        n, dice = self.node, self.dice
        match dice.randint(0, 11):
            case 0 | 1:
                self.happen(w.Restart())
            case 2:
                self.happen(w.Restart((dice.randrange(n.settings.cores),)))
            case 3 | 4:
                revision = next(self.revisions)
                if dice.random() < 0.3:
                    self.bad_revisions.add(revision)
                self.happen(w.Reload(revision))
            case 5:
                mode = dice.choice(list(w.QuiesceMode))
                self.happen(w.Quiesce(mode, announce_s=dice.choice([0.0, 5.0]), deadline_s=60.0))
            case 6 | 7:
                self.happen(w.Resume())
            case 8:
                self.happen(w.Scale(dice.randint(0, n.settings.cores + 1)))
            case 9:
                self.rotate()
                self.later(3.0, self.rotate)
            case 10:
                self.happen(w.AbortOld(60.0))
            case 11 if self.alive:
                self.die(dice.choice(list(self.alive)), -9)
        self.later(dice.expovariate(0.25), self.operate)


def evening(world: World) -> None:
    world.later(world.dice.uniform(0, 5), world.operate)
    world.happen(w.Started())
    world.run_until(TROUBLE_S)
    world.trouble = False
    for process in world.alive.values():
        if process.character == "refuses":
            process.character = "good"
    if world.quit is not None:
        assert world.quit == 1, "a node that could not start says so"
        return
    world.run_until(TROUBLE_S + 200)
    node = world.node
    if node.state in (NodeState.QUIESCED, NodeState.QUIESCING):
        assert node.state is NodeState.QUIESCED or node.discouraging, "promise 7: the quiesce did not end"
        world.happen(w.Resume())
    world.run_until(world.now_s + 100)
    assert node.state is NodeState.SERVING, "promise 7"
    assert not (node.rollout and node.rollout.running), "promise 7: the rollout did not end"
    assert node.reloading is None
    assert node.key_change is None
    serving = [v for v in node.workers.values() if v.state is WorkerState.READY]
    assert sorted(v.core for v in serving) == list(range(node.target)), "promise 7"
    assert {world.alive[v.worker_id].revision for v in serving} == {node.revision}, "promise 7"
    assert set(world.known) == set(node.workers), "dead ids were forgotten"
    # Everybody is on the present keys, and earlier epochs have made room.
    for process in world.alive.values():
        process.held &= {node.seal_with}
    world.run_until(world.now_s + node.settings.quarantine_s + 20)
    for process in world.alive.values():
        process.held &= {node.seal_with}
    world.run_until(world.now_s + 10)
    assert node.cid_epochs == (node.seal_with,) or node.announced, "promise 9: old epochs never leave"
    assert set(world.accepting) == {v.worker_id for v in serving}
    assert set(world.known) == set(node.workers), "dead ids were forgotten"
    for process in world.alive.values():
        process.character = world.dice.choice(["good", "good", "stubborn"])
    world.happen(w.StopNode(fast=world.dice.random() < 0.3))
    world.run_until(world.now_s + 60)
    assert world.quit == 0, "promise 8"


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(300, 3000), marks=pytest.mark.slow)], ids=str)
def test_evenings(seeds: range) -> None:
    outcomes: dict[str, int] = {}
    for seed in ONE_SEED or seeds:
        world = World(seed)
        try:
            evening(world)
        except BaseException as failure:
            print(*world.story[-60:], sep="\n")
            pytest.fail(f"SEED={seed}: {type(failure).__name__} {failure}")
        outcomes[str(world.quit)] = outcomes.get(str(world.quit), 0) + 1
    if not ONE_SEED:
        assert outcomes["0"] > len(seeds) // 3, "most evenings should be about more than a failed start"
