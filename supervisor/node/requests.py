"""What an operator may ask of a node, and the state that these requests work on. Pure; the other half of node.py.

Each request either takes effect or raises `CannotDo` before anything has changed. Asking twice is no error where the
answer is the same (`quiesce`, `resume`, `stop`). A reload and a change of keys (rotations.py) are agreements: everybody
has it before anybody uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from supervisor.node import drain_contract as contract
from supervisor.node import draining as drains
from supervisor.node.agreement import Agreement
from supervisor.node.commands import Activated, Command, GiveConfig, RemoveDisableFile, Say, Spawn, Tell
from supervisor.node.happenings import Departed, Quiesce, QuiesceMode
from supervisor.node.lifecycle import NodeEvent, NodeState, WorkerEvent, WorkerState, next_node_state
from supervisor.node.rollout import Rollout
from supervisor.node.routes import Routes, current_worker
from supervisor.node.worker import Core, Worker, WorkerIds
from velocity_edge.errors import CannotDo
from velocity_edge.wire import messages as m


@dataclass(frozen=True, slots=True)
class Settings:
    """How many, and how long. Seconds."""

    #: Places for a current worker; there are twice as many slots.
    cores: int
    #: A loaded machine imports slowly; a worker that needs longer will not come.
    start_timeout_s: float = 30.0
    #: Heartbeats come every second. A garbage collection or a page cache stall is no reason to kill; 10 s is.
    heartbeat_timeout_s: float = 10.0
    #: To prepare a configuration, and to activate it.
    prepare_timeout_s: float = 10.0
    keys_timeout_s: float = 5.0
    #: A worker that leaves closes what is left after this.
    drain_timeout_s: float = 30.0
    #: From GOAWAY to the first connection until GOAWAY to the last.
    drain_spread_s: float = 2.0
    #: What a worker gets on top, to do what it was told; also for its exit after its channel ended.
    grace_s: float = 5.0
    #: A dead worker's connections are idled out after this (idle time-out and three probes).
    quarantine_s: float = 40.0
    max_start_failures: int = 3


@dataclass(slots=True)
class ReloadResult:
    """How the last reload ended. `reason` is empty when it went well."""

    revision: int
    ok: bool
    reason: str
    at_s: float
    took_s: float = 0.0


@dataclass(slots=True)
class Requests:
    """The state of a node, and what operators do to it."""

    settings: Settings
    #: Workers wanted; they have the cores 0..target-1.
    target: int
    epochs: tuple[int, ...] = ()
    seal_with: int = 0
    revision: int = 1
    ids: WorkerIds = field(default_factory=WorkerIds)
    state: NodeState = NodeState.STARTING
    workers: dict[int, Worker] = field(default_factory=dict)
    departed: dict[int, Departed] = field(default_factory=dict)
    cores: list[Core] = field(default_factory=list)
    routes: Routes = field(default_factory=Routes)
    rollout: Rollout | None = None
    reloading: Agreement | None = None
    last_reload: ReloadResult | None = None
    #: The epoch that will seal when everybody holds it.
    key_change: Agreement | None = None
    #: Epochs whose connection IDs decode, newest first; those of `epochs` that open nothing.
    cid_epochs: tuple[int, ...] = ()
    closed_epochs: tuple[int, ...] = ()
    #: The epoch of a rotation that has begun, also one that an earlier supervisor began; 0: none.
    announced: int = 0
    #: Epoch -> until when packets with ids of it may come although no connection holds one: it stopped sealing.
    lingering: dict[int, float] = field(default_factory=dict)
    #: Epochs whose connections were asked to move.
    moving: frozenset[int] = frozenset()
    #: What an operator asked for, and what the workers were told because of it.
    quiesced: Quiesce | None = None
    drain_at_s: float | None = None
    #: An earlier supervisor had quiesced the node, and no worker of it lives: none takes a connection meanwhile.
    quiesce_first: Quiesce | None = None
    #: It did so, and nobody has been let in since.
    came_back: bool = False
    draining_order: m.Drain | None = None
    #: The drain that is under way, or the last one.
    contract: contract.Contract | None = None
    #: When the node came into its state; and how often a supervisor adopted it.
    state_since_s: float = 0.0
    adoptions: int = 0
    #: What workers closed because of the last `abort_old`, and who has yet to say.
    aborted: list[m.Aborted] = field(default_factory=list)
    aborting: set[int] = field(default_factory=set)
    #: Why the node stops by itself.
    failure: str = ""
    exit_code: int = 0
    now_s: float = 0.0
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cores = [Core(index) for index in range(self.settings.cores)]
        self.cid_epochs = self.cid_epochs or (self.seal_with,)

    # --- properties that others read ------------------------------------------------------------------------------

    @property
    def accepts(self) -> bool:
        """Whether new connections are taken."""
        if self.state is NodeState.STARTING:
            # One that starts quiesced lets nobody in before somebody says so.
            return self.quiesce_first is None or self.quiesce_first.mode is QuiesceMode.DISCOURAGE
        if self.state is NodeState.SERVING:
            return True
        if self.state is NodeState.QUIESCING:
            return self.draining_order is None or self.discouraging
        return False

    @property
    def discouraging(self) -> bool:
        """Whether connections are asked to leave while new ones are taken."""
        return self.draining_order is not None and self.draining_order.discourage

    @property
    def ready(self) -> bool:
        """What /readyz says: send clients here."""
        return self.state is NodeState.SERVING and bool(self.routes.accepting)

    # --- requests -----------------------------------------------------------------------------------------------------

    def quiesce(self, wish: Quiesce) -> None:
        """Take leave of clients and stay up."""
        if self.state is NodeState.STARTING:
            raise CannotDo("cannot quiesce: the node is still starting")
        if self.state in (NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo("cannot quiesce: the node is stopping")
        if self.contract and self.contract.running:
            if wish.mode is QuiesceMode.DISCOURAGE:
                raise CannotDo("cannot discourage: a drain is under way; `resume` ends it")
            if wish.mode is QuiesceMode.IMMEDIATE:
                self.contract.hurry(self.now_s)
                self.drain_everybody()
            return
        if self.quiesced and self.quiesced.mode is wish.mode:
            return  # already under way; the first one's reason and times stay
        if self.state is NodeState.QUIESCED:
            return  # there is nobody left to take leave of
        since_s = self.now_s if wish.since_s is None else wish.since_s
        self.quiesced = replace(wish, since_s=since_s)
        self.advance(NodeEvent.QUIESCE)
        self.say(f"quiescing ({wish.mode}){': ' + wish.reason if wish.reason else ''}")
        if wish.mode is QuiesceMode.GRACEFUL and since_s + wish.announce_s > self.now_s:
            self.drain_at_s = since_s + wish.announce_s
        else:
            self.drain_everybody()

    def drain_everybody(self) -> None:
        """Carry out the quiesce, after its announcement."""
        assert self.quiesced is not None
        self.drain_at_s = None
        self.draining_order = self.drain_order()
        for worker in self.workers.values():
            if worker.serving and not worker.doomed:
                self._drain(worker, self.draining_order)

    def drain_order(self) -> m.Drain:
        """Return what the quiesce means for a worker that is told now: the deadline does not move."""
        assert self.quiesced is not None
        mode, since_s = self.quiesced.mode, self.quiesced.since_s
        announce_s = self.quiesced.announce_s if mode is QuiesceMode.GRACEFUL else 0.0
        passed_s = 0.0 if since_s is None else self.now_s - since_s - announce_s
        spread_s = 0.0 if mode is QuiesceMode.IMMEDIATE else self.quiesced.spread_s
        return m.Drain(max(0.0, self.quiesced.deadline_s - passed_s), spread_s, mode is QuiesceMode.DISCOURAGE)

    def resume(self) -> None:
        """Serve again."""
        if self.state is NodeState.SERVING:
            self.commands.append(RemoveDisableFile())  # somebody may have written it by hand
            return
        if self.state is NodeState.STARTING and self.quiesce_first:
            self.quiesce_first = None
            if self.contract:
                self.contract.released = True
            self.commands.append(RemoveDisableFile())
            self.say("resumed: clients are let in as soon as workers are ready")
            return
        if self.state not in (NodeState.QUIESCING, NodeState.QUIESCED):
            raise CannotDo(f"cannot resume: the node is {self.state}")
        drains.over(self, contract.Event.RESUME)
        if self.contract:
            self.contract.released = True
        self.quiesced = self.draining_order = self.drain_at_s = None
        self.came_back = False
        self.commands.append(RemoveDisableFile())
        self.advance(NodeEvent.RESUME)
        self.resume_workers()
        self.say("resumed")

    def resume_workers(self) -> None:
        """Have everybody who drains and stays serve again."""
        for worker in self.workers.values():
            if worker.state is WorkerState.DRAINING and not worker.leaving:
                worker.advance(WorkerEvent.RESUME)
                worker.drained = False
                self.tell(worker, m.Resume())

    def restart(self, cores: tuple[int, ...] | None) -> None:
        """Begin a rolling restart."""
        chosen = self.may_restart(cores)
        self.rollout = Rollout(chosen)
        self.say(f"rolling restart of {len(chosen)} workers")

    def may_restart(self, cores: tuple[int, ...] | None) -> list[int]:
        """Return the cores that a restart would be of, or raise `CannotDo`."""
        if self.state in (NodeState.STARTING, NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo(f"cannot restart: the node is {self.state}")
        if self.rollout and self.rollout.running:
            raise CannotDo(f"cannot restart: a restart is under way, {self.rollout.progress}")
        chosen = list(range(self.target)) if cores is None else list(dict.fromkeys(cores))
        for core in chosen:
            if not 0 <= core < self.target:
                raise CannotDo(f"cannot restart core {core}: this node has the cores 0 to {self.target - 1}")
        if not chosen:
            raise CannotDo("cannot restart: no core is named")
        return chosen

    def reload(self, revision: int) -> None:
        """Have every worker prepare *revision*, and use it if all can."""
        if self.state in (NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo("cannot reload: the node is stopping")
        if revision <= max(self.revision, self.reloading.target if self.reloading else 0):
            raise CannotDo(f"cannot reload: revision {revision} is not new")
        waiting = {worker.worker_id for worker in self.workers.values() if worker.serving}
        # Where not even the revision in use comes up, another one can only be better.
        failing = any(core.start_failures for core in self.cores)
        if not waiting and not failing:
            raise CannotDo("cannot reload: no worker is up to try it")
        self.reloading = Agreement(revision, waiting, self.now_s + self.settings.prepare_timeout_s, began_s=self.now_s)
        if not waiting:
            self.finish_reload()
        for worker_id in sorted(waiting):
            self.give(self.workers[worker_id], revision)

    def finish_reload(self) -> None:
        """Everybody is prepared: activate."""
        assert self.reloading is not None
        revision, took_s, self.reloading = self.reloading.target, self.now_s - self.reloading.began_s, None
        self.revision = revision
        self.last_reload = ReloadResult(revision, True, "", self.now_s, took_s)
        self.commands.append(Activated(revision))
        for worker in self.workers.values():
            if worker.prepared == revision and worker.serving:
                self.activate(worker)
            elif worker.hello and (worker.serving or worker.state is WorkerState.STARTING):
                # It came up meanwhile, with the earlier revision.
                self.give(worker, revision)
        self.say(f"revision {revision} is in use")

    def fail_reload(self, reason: str) -> None:
        """Somebody cannot: nothing has changed."""
        assert self.reloading is not None
        revision, self.reloading = self.reloading.target, None
        self.reload_failed(revision, reason)
        for worker in self.workers.values():
            if worker.serving and worker.revision != self.revision and worker.given == revision:
                self.give(worker, self.revision)  # it was still on its way there

    def reload_failed(self, revision: int, reason: str) -> None:
        """Remember and say why a revision is not used."""
        self.last_reload = ReloadResult(revision, False, reason, self.now_s)
        self.say(f"cannot reload: {reason.removeprefix('cannot reload: ')}; revision {self.revision} stays", "error")

    def abort_old(self, age_s: float) -> None:
        """Close old connections everywhere."""
        self.aborted, self.aborting = [], {worker.worker_id for worker in self.workers.values() if worker.serving}
        for worker_id in sorted(self.aborting):
            self.tell(self.workers[worker_id], m.Abort(age_s))

    def scale(self, count: int) -> None:
        """Have *count* workers."""
        if self.state is not NodeState.SERVING:
            raise CannotDo(f"cannot scale: the node is {self.state}")
        if self.rollout and self.rollout.running:
            raise CannotDo(f"cannot scale: a restart is under way, {self.rollout.progress}")
        if not 1 <= count <= self.settings.cores:
            raise CannotDo(f"cannot scale to {count} workers: 1 to {self.settings.cores} have slots")
        self.target = count
        for core in self.cores[count:]:
            core.respawn_s = None
        for core in self.cores[:count]:
            if core.respawn_s is None and current_worker(self.workers.values(), core.index) is None:
                core.respawn_s, core.respawn_slot = self.now_s, core.index
        self.say(f"{count} workers wanted")

    def stop(self, *, fast: bool) -> None:
        """Stop: drain and go; or, when *fast* or asked again, go."""
        if self.state is NodeState.STOPPED:
            return
        again = self.state is NodeState.STOPPING
        if again and not fast:
            return
        self.advance(NodeEvent.STOP)
        self.say("stopping at once" if fast else "stopping: connections drain first")
        self.stop_all(fast=fast)

    # --- steps that requests and the life of workers share ----------------------------------------------------------

    def stop_all(self, *, fast: bool = True) -> None:
        """Send everybody away."""
        if self.rollout and self.rollout.running:
            self.rollout.abort("the node stops")
        if self.reloading:
            self.fail_reload("the node stops")
        drains.over(self, contract.Event.STOP)
        self.key_change = self.drain_at_s = None
        for core in self.cores:
            core.respawn_s = None
        for worker in list(self.workers.values()):
            if fast and worker.state is not WorkerState.STOPPING:
                worker.leaving = True
                self._stop_worker(worker)
            else:
                self.dismiss(worker)

    def give(self, worker: Worker, revision: int) -> None:
        """Have a worker prepare *revision*. It can hold one that is not in use: what it was given before is void."""
        worker.given = revision
        self.commands.append(GiveConfig(worker.worker_id, revision))

    def activate(self, worker: Worker) -> None:
        """Have a prepared worker use the node's revision."""
        worker.activation_due_s = self.now_s + self.settings.prepare_timeout_s
        self.tell(worker, m.Activate(self.revision))

    def dismiss(self, worker: Worker, by_s: float | None = None) -> None:
        """Have a worker finish what it has and leave for good; *by_s* is when an earlier supervisor wanted it gone."""
        if worker.doomed:
            return
        worker.leaving = True
        worker.leave_by_s = self.now_s + self.settings.drain_timeout_s if by_s is None else by_s
        if worker.state is WorkerState.STARTING or worker.drained:
            self._stop_worker(worker)
        else:
            left_s = max(0.0, worker.leave_by_s - self.now_s)
            self._drain(worker, m.Drain(left_s, self.settings.drain_spread_s))
            worker.deadline_s = self.now_s + left_s + self.settings.grace_s

    def _drain(self, worker: Worker, order: m.Drain) -> None:
        if worker.state is WorkerState.READY:
            worker.advance(WorkerEvent.DRAIN)
        worker.drained, worker.lost, worker.cut = False, 0, 0
        self.tell(worker, order)

    def _stop_worker(self, worker: Worker) -> None:
        if worker.state is WorkerState.KILLED:
            return
        worker.advance(WorkerEvent.STOP)
        worker.deadline_s, worker.activation_due_s = self.now_s + self.settings.grace_s, None
        self.tell(worker, m.Stop())

    def spawn(self, core: int, slot: int) -> int:
        """Start a worker; return its id."""
        worker_id = self.ids.lend({*self.workers, *self.departed})
        deadline_s = self.now_s + self.settings.start_timeout_s
        self.workers[worker_id] = Worker(worker_id, core, slot, self.now_s, deadline_s, heard_s=self.now_s)
        self.cores[core].respawn_s = None
        patient = any(worker.core == core and worker.serving for worker in self.workers.values())
        self.commands.append(Spawn(worker_id, slot, core, patient))
        return worker_id

    def _other_slot(self, slot: int) -> int:
        cores = self.settings.cores
        return slot + cores if slot < cores else slot - cores

    def _free_slots(self, core: int) -> list[int]:
        taken = {worker.slot for worker in self.workers.values()}
        return [slot for slot in (core, core + self.settings.cores) if slot not in taken]

    def advance(self, event: NodeEvent) -> None:
        """Change the node's state by the table."""
        before, self.state = self.state, next_node_state(self.state, event)
        if self.state is not before:
            self.state_since_s = self.now_s

    def tell(self, worker: Worker, order: m.Order) -> None:
        """Send an order."""
        self.commands.append(Tell(worker.worker_id, order))

    def say(self, text: str, level: str = "info", worker: Worker | None = None) -> None:
        """Write a line to the log."""
        self.commands.append(Say(text, level, worker.worker_id if worker else None))
