"""A simulated machine around the real decisions, with supervisors that die and have successors.

    real                                             simulated
    supervisor/node/, translate.py, keyring.py       themselves
    supervisor/shell.py, startup.py, chores/         `happen`, `succeed`, `reload`, `rotate`: the same order of steps
    a supervisor's death between two commands        `cut_next`: the next happening is carried out in part
    state.json                                       `saved`, made as shell.py makes it: before and after the commands
    pinned maps                                      `known`, `accepting`; tier A forgets them with its supervisor

Workers are in machine.py, the invariants in invariants.py, the scenarios in test_node.py.
"""

from __future__ import annotations

import itertools

from supervisor.machine import keyring
from supervisor.node import commands, happenings
from supervisor.node.lifecycle import NodeState
from supervisor.node.node import Node
from supervisor.node.state import Settings
from supervisor.node.worker import WorkerIds
from supervisor.succession import translate
from supervisor.succession.saved_state import SavedState
from tests.simulation.machine import QUARANTINE_S, Machine, Process
from velocity_edge.config.tickets import Tickets
from velocity_edge.errors import CannotDo
from velocity_edge.keys.table import ROOT_BYTES, EpochTable, first_table
from velocity_edge.wire import messages
from velocity_edge.wire.messages import Listener

#: How long a successor waits for workers (supervisor/succession/adoption.py).
PATIENCE_S = 6.0
ROOT = bytes(ROOT_BYTES)
#: So few that they come round, and more than are lent within a quarantine.
WORKER_IDS = 60


class World(Machine):
    """One machine. *deadly*: supervisors die, too."""

    def __init__(self, seed: int, *, deadly: bool, node_class: type[Node] = Node) -> None:
        super().__init__(seed)
        self.node_class = node_class
        self.deadly = deadly
        self.pins = self.dice.random() < 0.7
        # What outlives a supervisor.
        self.known: dict[int, int] = {}
        self.accepting: tuple[int, ...] = ()
        self.decodes: frozenset[int] = frozenset()
        self.disabled = False
        self.saved: SavedState | None = None
        self.contents = itertools.count(1)
        self.file = next(self.contents)
        self.disk = first_table(ROOT, 0.0)
        # The supervisor.
        self.node: Node | None = None
        self.ring: keyring.Keyring
        self.materials: dict[int, int] = {}
        self.last_revision = 0
        self.up_s = 0.0
        self.gathering: set[int] | None = None
        self.cut_next = False
        self.tick_s: float | None = None
        self.ticked_s, self.ticks_now = -1.0, 0
        self.deaths = 0

    # --- the supervisor's hands: shell.py ---------------------------------------------------------------------------

    def happen(self, happening: happenings.Happening) -> bool:
        """Return whether the node took it (and the supervisor lived to do all that followed)."""
        node = self.node
        if node is None or self.quit is not None:
            return False
        if not (isinstance(happening, happenings.Reported) and isinstance(happening.report, messages.Heartbeat)):
            self.story.append((self.now_s, happening))
        cutting, self.cut_next = self.cut_next, False
        saved_before = (
            self.saved if isinstance(happening, happenings.Started) else self.left_behind() if cutting else None
        )
        try:
            given = node.handle(happening, self.now_s)
        except CannotDo as refusal:
            self.story.append((self.now_s, refusal))
            self.cut_next = cutting
            return False
        end = None
        if cutting:
            end = self.dice.randint(-1, len(given))
            if end < 0:
                return self.die(saved_before)
        self.ring.follow(node.seal_with, node.cid_epochs)
        self.disk = self.ring.table
        saved = self.left_behind() if cutting else None
        self.before_commands(happening)
        for number, command in enumerate(given):
            if number == end:
                return self.die(saved)
            if not isinstance(command, commands.Say):
                self.story.append((self.now_s, command))
            self.do(command)
            if self.quit is not None:
                return True
        if end is not None:
            return self.die(saved)
        keep = {node.revision, node.reloading.target if node.reloading else 0}
        if len(self.materials) > len(keep):
            self.materials = {r: c for r, c in self.materials.items() if r in keep}
        self.check(happening)
        self.arm()
        return True

    def left_behind(self, *, roll: bool = False) -> SavedState | None:
        node = self.node
        assert node is not None
        if node.state is NodeState.STOPPED:
            return None
        return translate.left_behind(
            node,
            {i: (pid, pid) for i, pid in self.attached.items()},
            boot_id="boot",
            cpus=list(range(self.cores)),
            listeners=[Listener("0.0.0.0", 443)],
            last_revision=self.last_revision,
            config={"content": self.materials[node.revision]},
            roll=roll,
        )

    def arm(self) -> None:
        assert self.node is not None
        due_s = self.node.next_deadline_s()
        if due_s is not None and self.quit is None and (self.tick_s is None or due_s < self.tick_s):
            self.tick_s = due_s
            supervisor = self.supervisor
            self.later(max(0.0, due_s - self.now_s), lambda: self.tick(due_s, supervisor))

    def tick(self, due_s: float, supervisor: int) -> None:
        if self.tick_s != due_s or supervisor != self.supervisor:
            return  # another one was due earlier
        self.tick_s = None
        self.happen(happenings.Ticked(self.progress()))
        self.ticks_now = self.ticks_now + 1 if self.now_s == self.ticked_s else 0
        self.ticked_s = self.now_s
        assert self.ticks_now < 3, "invariant 8: a deadline that no tick removes"

    def do(self, command: commands.Command) -> None:
        match command:
            case commands.Spawn(worker_id, slot, core):
                self.spawn(worker_id, slot, core)
            case commands.Kill(worker_id):
                self.killed(worker_id)
                self.end(worker_id, -9)
            case commands.Equip(worker_id, slot, keep):
                process = self.attached_process(worker_id)
                if process:
                    assert {slot, keep} == {process.core + n * self.cores for n in (0, 1)}
            case commands.GiveKeys(worker_id, epochs, seal_with):
                decodes = frozenset(self.ring.table.cid_live)
                self.order_to(worker_id, 0.5, lambda p: self.use_keys(p, epochs, seal_with, decodes))
            case commands.GiveConfig(worker_id, revision):
                content = self.materials[revision]
                self.order_to(worker_id, 1.0, lambda p: self.prepare(p, revision, content))
            case commands.Tell(worker_id, order):
                self.told(worker_id, order)
                self.order_to(worker_id, 0.0, lambda p: self.obey(p, order))
            case commands.Lend(worker_id, slot, _):
                assert 0 <= slot < 2 * self.cores
                self.known[worker_id] = slot
            case commands.Forget(worker_id):
                self.known.pop(worker_id, None)
            case commands.Accept(worker_ids):
                self.accepting = worker_ids
            case commands.Quit(exit_code):
                assert self.quit is None
                self.quit = exit_code
            case commands.Activated(revision):
                self.activated(revision)
            case commands.UseCidKeys():
                self.decodes = frozenset(self.ring.table.cid_live)
            case commands.WriteDisableFile():
                number = self.supervisor
                self.later(0.0, lambda: self.write_disable_file(number))
            case commands.RemoveDisableFile():
                number = self.supervisor
                self.later(0.0, lambda: self.remove_disable_file(number))
            case commands.Say():
                pass

    def before_commands(self, happening: happenings.Happening) -> None:
        """For invariants.py."""

    def told(self, worker_id: int, order: messages.Order) -> None:
        """For invariants.py."""

    def activated(self, revision: int) -> None:
        """For invariants.py."""

    def killed(self, worker_id: int) -> None:
        """For invariants.py."""

    def check(self, happening: happenings.Happening) -> None:
        """For invariants.py."""

    # --- the end of a supervisor, and the next one: startup.py, adoption.py ---

    def die(self, saved: SavedState | None) -> bool:
        """The supervisor is killed; *saved* is in its file."""
        self.story.append((self.now_s, "--- the supervisor dies"))
        self.deaths += 1
        self.saved = saved
        self.leave()
        self.later(self.dice.choice([0.0, 0.3, 5.0, 40.0]), lambda: self.succeed(roll=False))
        return False

    def leave(self) -> None:
        """No supervisor runs now."""
        self.node, self.tick_s, self.gathering, self.cut_next, self.waiting = None, None, None, False, True
        self.supervisor += 1
        self.attached = {}
        for process in list(self.alive.values()):
            # It still carries out the orders that it has received; its answers are lost.
            process.reports_to = 0
            while process.inbox and not process.silent:
                process.inbox.pop(0)()
            process.inbox.clear()
            process.hello, process.later = None, []  # of the supervisor before
            if not process.revision:
                # It hangs up on what never served; a hung one is killed by the successor if that knows of it.
                self.later(self.dice.uniform(0.0, 1.0), lambda p=process: self.vanish(p))

    def exec(self) -> None:
        """An upgrade: the successor is there at once."""
        self.story.append((self.now_s, "--- the supervisor executes its successor"))
        self.saved = self.left_behind(roll=True)
        self.leave()
        self.succeed(roll=True)

    def kill_all(self) -> None:
        """The out-of-memory killer, or a stop of all processes at once."""
        if self.node is not None:
            self.saved = self.left_behind()
        for process in list(self.alive.values()):
            self.vanish(process)
        self.die(self.saved)

    def succeed(self, *, roll: bool) -> None:
        """Another supervisor starts, and waits for the workers that live."""
        if self.node is not None or self.gathering is not None:
            return
        self.supervisor += 1
        number = self.supervisor
        roll = self.saved is not None and (roll or self.saved.roll)
        here = {s.worker_id: s for s in self.saved.workers} if self.saved else {}
        self.gathering = {i for i, s in here.items() if i in self.alive and self.alive[i].pid == s.pid}
        slowest_s = 0.0
        for worker_id in self.gathering:
            process, delay_s = self.alive[worker_id], self.dice.uniform(0.0, 1.0)
            if process.silent or not process.revision:
                slowest_s = PATIENCE_S
            slowest_s = max(slowest_s, delay_s)
            self.later(delay_s, lambda p=process: self.connect(p, number))
        self.later(slowest_s, lambda: self.begin(number, roll))
        if self.deadly and self.trouble and self.dice.random() < 0.05:
            self.later(self.dice.uniform(0.0, PATIENCE_S), lambda: self.die_waiting(number))

    def die_waiting(self, number: int) -> None:
        if number == self.supervisor and self.node is None:
            self.die(self.saved)

    def connect(self, process: Process, number: int) -> None:
        if number != self.supervisor or not self.lives(process):
            return
        if process.silent or process.stopping or not process.revision:
            return
        process.reports_to = number
        process.hello = messages.Hello(
            process.worker_id, process.pid, "portable", "test", revision=process.revision, draining=process.draining
        )

    def begin(self, number: int, roll: bool) -> None:
        """Keep or kill the workers of the earlier supervisor, and start the node."""
        if number != self.supervisor:
            return
        assert self.gathering is not None
        saved, came, later = self.saved, {}, []
        for worker_id in sorted(self.gathering):
            process = self.alive.get(worker_id)
            if process is None:
                continue
            if process.hello and translate.worth_keeping(process.hello):
                came[worker_id] = process.hello
                later += [(worker_id, report) for report in process.later]
            else:
                self.story.append((self.now_s, f"--- worker {worker_id} did not come back: killed"))
                self.vanish(process)
        self.gathering = None
        if not (self.pins and saved):
            self.known, self.accepting = {}, ()
        self.ring = keyring.Keyring(NotStored(), self.disk, False)
        self.decodes = frozenset(self.disk.cid_live)
        target = self.dice.randint(1, self.cores) if saved is None else saved.target
        ours = self.last_revision = saved.last_revision + 1 if saved else 1
        in_use = saved if came and not roll else None
        revision = in_use.revision if in_use else ours
        settings = Settings(self.cores, quarantine_s=QUARANTINE_S)
        self.node = self.node_class(
            settings,
            target=target,
            epochs=self.ring.epochs,
            seal_with=self.ring.table.seal_with,
            cid_epochs=self.ring.table.cid_live,
            closed_epochs=self.ring.table.closed,
            announced=self.ring.table.announced or 0,
            revision=revision,
            ids=WorkerIds(saved.next_id if saved else 1, WORKER_IDS),
        )
        self.up_s, self.waiting = self.now_s, False
        self.materials = {revision: in_use.config["content"] if in_use and in_use.config else self.file}
        self.attached = {i: self.alive[i].pid for i in came}
        self.story.append((self.now_s, f"--- supervisor {number} begins with {sorted(came)}"))
        if saved:
            self.happen(translate.started(saved, came, self.known, settings, self.now_s, roll=roll))
        else:
            self.happen(happenings.Started())
        for worker_id, report in later:
            if self.supervisor == number:
                self.happen(happenings.Reported(worker_id, report))
        if in_use and self.supervisor == number:
            self.materials[ours] = self.file
            self.happen(happenings.Reload(ours))
        if self.supervisor == number:
            self.chores(number)
            self.count(number)

    # --- chores ---

    def write_disable_file(self, number: int) -> None:
        if number == self.supervisor:
            error = "cannot write it" if self.trouble and self.dice.random() < 0.1 else ""
            self.disabled |= not error
            self.happen(happenings.DisableFileWritten(error))

    def remove_disable_file(self, number: int) -> None:
        if number == self.supervisor:
            self.disabled = False
            self.happen(happenings.DisableFileRemoved())

    def count(self, number: int) -> None:
        """While the node drains: how many clients still come?"""
        if number == self.supervisor and self.node is not None:
            if self.node.contract and self.node.contract.running:
                self.happen(happenings.Counted(self.dice.randint(0, 3)))
            self.later(4.0, lambda: self.count(number))

    def chores(self, number: int) -> None:
        """Every half minute: is a rotation due, or unfinished?"""
        if number != self.supervisor or self.node is None:
            return
        if self.ring.table.announced:
            self.rotate()
        self.later(30.0, lambda: self.chores(number))

    def rotate(self) -> None:
        """Rotate keys."""
        if self.node is None or self.node.key_change:
            return
        try:
            number = self.ring.announce(Tickets(), self.now_s)
        except CannotDo:
            return  # it needs the place of one that is in use
        self.disk = self.ring.table
        self.happen(happenings.UseEpochs(self.ring.epochs, number, self.ring.table.closed))

    def reload(self) -> None:
        """Read the file again."""
        if self.node is None:
            return
        self.last_revision = revision = self.last_revision + 1
        self.materials[revision] = self.file
        number = self.supervisor
        if not self.happen(happenings.Reload(revision)) and number == self.supervisor:
            self.materials.pop(revision, None)
            self.happen(happenings.ReloadFailed(revision, "cannot reload"))


class NotStored:
    """A `KeySource` without storage: `World.disk` says which table a supervisor finds."""

    name = "/nowhere"

    def load(self) -> EpochTable | None:
        return None

    def store(self, table: EpochTable) -> None:
        pass

    def set_aside(self) -> str:
        return ""
