"""What must hold after every step of every run (in words: test_node.py), as checks on a `World`."""

from __future__ import annotations

from supervisor.node.happenings import DisableFileWritten, DrainNode, Happening, Quiesce, Reload, Reported, Resume
from supervisor.node.lifecycle import NodeState, WorkerState
from supervisor.node.node import Node
from supervisor.node.rollout import RolloutState
from supervisor.node.routes import current_worker
from tests.simulation.machine import Process
from tests.simulation.world import World
from velocity_edge.wire import messages

#: How long an intermediate state may last: longer than any step of the node, much shorter than a run.
PATIENCE_S = 60.0


class Watched(World):
    """A world that raises an AssertionError when an invariant is violated."""

    def __init__(self, seed: int, *, deadly: bool, node_class: type[Node] = Node) -> None:
        super().__init__(seed, deadly=deadly, node_class=node_class)
        self.since: dict[str, float] = {}
        self.accepted_before: tuple[int, ...] = ()
        self.quiesce_wanted = False
        #: The workers that were asked to try the revision of a reload: worker id -> pid.
        self.asked: dict[int, int] = {}

    def spawned(self, process: Process) -> None:
        worker_id = process.worker_id
        assert worker_id not in self.alive, "invariant 1: the id names a living process"
        assert self.dead_until.get(worker_id, 0.0) <= self.now_s, "invariant 1: packets for the dead one may still come"
        assert process.slot not in {p.slot for p in self.alive.values() if p.reports_to}, "invariant 2: two in a slot"
        assert self.known.get(worker_id) == process.slot, "invariant 2: an id is known before its worker exists"

    def told(self, worker_id: int, order: messages.Order) -> None:
        process, node = self.attached_process(worker_id), self.node
        assert node is not None
        if process is None:
            return
        match order:
            case messages.Drain(_, _, discourage) if not discourage:
                assert worker_id not in self.accepting, "invariant 3: it drains while new connections go to it"
                worker, first = node.workers[worker_id], process.dismissed_s is None
                if worker.leaving:
                    process.surplus |= worker.core >= node.target
                    self.dismissed(process)
                if worker.leaving and first and not process.draining:
                    others = [
                        other for other in node.workers.values() if other.core == worker.core and other is not worker
                    ]
                    fine = worker.core >= node.target or node.state is NodeState.STOPPING
                    assert fine or any(other.serving and not other.doomed for other in others), (
                        "invariant 6: no worker takes its place"
                    )
            case messages.Stop():
                self.dismissed(process)
            case messages.Activate(revision):
                content = self.materials[revision]
                assert content not in self.bad_contents, "invariant 4: a refused configuration is activated"

    def dismissed(self, process: Process) -> None:
        if process.dismissed_s is None:
            process.dismissed_s = self.now_s

    def before_commands(self, happening: Happening) -> None:
        self.accepted_before = self.accepting
        match happening:
            case Quiesce() | DrainNode():
                self.quiesce_wanted = True
            case DisableFileWritten(error) if error:
                # A drain that cannot begin changes nothing.
                assert self.node is not None
                self.quiesce_wanted = bool(self.node.quiesced or self.node.quiesce_first)
            case Resume():
                self.quiesce_wanted = False
            case Reload():
                assert self.node is not None
                waiting = self.node.reloading.waiting if self.node.reloading else set()
                self.asked = {i: self.attached[i] for i in waiting if i in self.attached}

    def activated(self, revision: int) -> None:
        for worker_id, pid in self.asked.items():
            process = self.alive.get(worker_id)
            if process and process.pid == pid and not process.silent:
                assert revision in process.prepared, (
                    "invariant 4: a configuration is used that a worker has not prepared"
                )

    def killed(self, worker_id: int) -> None:
        process, node = self.attached_process(worker_id), self.node
        assert node is not None
        if process is not None and "no heartbeat" in node.workers[worker_id].reason:
            assert process.silent, "invariant 10: it made progress and was killed for late heartbeats"

    # --- after each step ---

    def check(self, happening: Happening) -> None:
        node = self.node
        assert node is not None
        if isinstance(happening, Reported) and isinstance(happening.report, messages.Heartbeat):
            self.check_slow_things(node)
            return
        known, workers = self.known, node.workers
        for worker_id, process in self.alive.items():
            assert not process.revision or known.get(worker_id) == process.slot, "invariant 2: its id leads elsewhere"
        for worker_id, slot in known.items():
            assert worker_id in workers or worker_id in node.departed, f"invariant 2: no worker had {worker_id}"
            if worker_id not in workers and slot not in {worker.slot for worker in workers.values()}:
                assert all(worker.doomed for worker in workers.values()), f"invariant 2: {worker_id} leads to no worker"
        self.check_accepting(node)
        self.check_keys()
        self.check_ids()
        # Workers that a failed start told to stop, and surplus ones, may leave together.
        together = {i for i, process in self.alive.items() if process.stopping or process.surplus}
        leaving = {
            worker.core
            for i, worker in workers.items()
            if worker.leaving and worker.state is WorkerState.DRAINING and i not in together
        }
        ready = {worker.core for worker in workers.values() if worker.state is WorkerState.READY and not worker.leaving}
        pairs = [core for core in leaving & ready if core < node.target]
        assert len(pairs) <= 1 or node.state is NodeState.STOPPING, "invariant 6: two cores hand over at a time"
        if node.state in (NodeState.SERVING, NodeState.QUIESCING, NodeState.QUIESCED):
            assert self.quiesce_wanted == (node.quiesced is not None), (
                "invariant 7: a quiesce was forgotten, or invented"
            )

    def check_accepting(self, node: Node) -> None:
        workers, accepting = node.workers, self.accepting
        assert set(accepting) <= set(self.known), "invariant 3: new connections go to an id that leads nowhere"
        if not node.accepts:
            assert not accepting, "invariant 3: it does not accept, and new connections come"
            return
        ready = {i for i, worker in workers.items() if worker.serving and not worker.doomed}
        if ready:
            assert set(accepting) == ready, "invariant 3: a ready worker does not get new connections"
        if node.state is not NodeState.STARTING:
            assert accepting or not self.accepted_before, "invariant 3: new connections have nowhere to wait"
        # A worker stops taking new connections for a reason only.
        for worker_id in set(self.accepted_before) - set(accepting):
            worker = workers.get(worker_id)
            if worker and worker.serving and worker.core < node.target:
                assert any(workers[i].core == worker.core for i in accepting), (
                    "invariant 3: a worker lost its new connections without a request"
                )

    def check_keys(self) -> None:
        on_disk = {epoch.epoch for epoch in self.disk.epochs}
        holders = [p for p in self.alive.values() if p.epochs and not p.silent and not p.stopping and p.reports_to]
        for process in holders:
            assert process.seal_with in on_disk, "invariant 5: it seals with a key that the file does not have"
            for other in holders:
                assert process.seal_with in other.epochs, "invariant 5: it seals with a key that another worker lacks"

    def check_ids(self) -> None:
        self.dead_held = [(until_s, held) for until_s, held in self.dead_held if until_s > self.now_s]
        needed = set().union(*(p.held for p in self.alive.values()), *(held for _, held in self.dead_held))
        assert needed <= self.decodes, "invariant 9: steering does not decode an id that a connection holds"
        for process in self.alive.values():
            fine = process.silent or process.stopping or not process.reports_to or not process.revision
            assert fine or needed <= process.decodes, (
                "invariant 9: a worker does not decode an id that a connection holds"
            )

    def check_slow_things(self, node: Node) -> None:
        """Intermediate states that may last for a while, but not for ever."""
        workers = node.workers.values()
        staying = [worker for worker in workers if worker.serving and not worker.doomed]
        cores = [worker.core for worker in staying]
        stopping = node.state is NodeState.STOPPING
        self.patience("invariant 6: a core keeps two workers", len(cores) != len(set(cores)) and not stopping)
        contents = {self.alive[worker.worker_id].content for worker in staying if worker.worker_id in self.alive}
        # After an aborted upgrade the older workers keep their configuration, and `status` says so.
        upgrade_failed = node.rollout is not None and node.rollout.state is RolloutState.ABORTED
        mixed = len(contents) > 1 and not upgrade_failed
        self.patience("invariant 4: workers serve different configurations", mixed)
        hung = any(
            worker.worker_id in self.alive and self.alive[worker.worker_id].silent
            for worker in workers
            if worker.serving
        )
        self.patience("invariant 10: a worker hangs and is not killed", hung)
        self.patience("invariant 5: a rotation does not end", node.key_change is not None)
        unfinished = bool(self.ring.table.announced) and not stopping
        self.patience("invariant 5: an announced epoch never seals", unfinished)
        rolling = node.rollout is not None and node.rollout.running
        self.patience("invariant 6: a rollout does not end", rolling, PATIENCE_S * 4)
        withdrawn = self.disabled and node.state is NodeState.SERVING
        self.patience("invariant 7: it serves, and its routes are withdrawn", withdrawn)
        draining = node.contract is not None and node.contract.running
        self.patience("invariant 7: a drain does not end", draining, 2 * PATIENCE_S)
        leaving = node.state is NodeState.QUIESCING and not node.discouraging
        self.patience("invariant 7: a quiesce does not end", leaving, 2 * PATIENCE_S)
        for process in self.alive.values():
            if process.dismissed_s is not None and process.reports_to:
                late_s = self.now_s - max(process.dismissed_s + 30.0, self.up_s)
                assert late_s < 15.0, f"invariant 8: worker {process.worker_id} does not exit"

    def patience(self, what: str, unfinished: bool, limit_s: float = PATIENCE_S) -> None:
        if not unfinished:
            self.since.pop(what, None)
            return
        since_s = self.since.setdefault(what, self.now_s)
        assert self.now_s - max(since_s, self.up_s) < limit_s, what


def check_recovered(world: World) -> None:
    """Assert what must be true some time after the faults ended."""
    node = world.node
    assert node is not None
    assert node.state is NodeState.SERVING, "invariant 7"
    assert not (node.rollout and node.rollout.running), "invariant 6: the rollout did not end"
    assert node.reloading is None
    assert node.key_change is None
    assert not world.disk.announced, "invariant 5: an announced epoch never sealed"
    assert node.cid_epochs == (node.seal_with,), "invariant 9: old epochs never leave"
    serving = [worker for worker in node.workers.values() if worker.state is WorkerState.READY]
    assert sorted(worker.core for worker in serving) == list(range(node.target)), (
        "invariant 7: one worker for each core"
    )
    assert {world.alive[worker.worker_id].content for worker in serving} == {world.file}, (
        "invariant 4: not all use the last one"
    )
    assert {world.alive[worker.worker_id].seal_with for worker in serving} == {world.disk.seal_with}
    assert set(world.accepting) == {worker.worker_id for worker in serving}
    assert not world.disabled, "invariant 7: routes are still withdrawn"
    assert set(world.known) == set(node.workers), "invariant 2: dead ids were not forgotten"
    assert set(world.alive) == set(node.workers), "invariant 8: a process lives that the node does not know"


def has_recovered(world: World) -> bool:
    node = world.node
    return (
        node is not None
        and node.state is NodeState.SERVING
        and not node.departed
        and not (node.rollout and node.rollout.running)
        and node.reloading is None
        and node.key_change is None
        and len(node.workers) == node.target == len(world.alive)
        and all(
            worker.state is WorkerState.READY and worker.revision == node.revision for worker in node.workers.values()
        )
        and all(current_worker(node.workers.values(), core) for core in range(node.target))
        and not world.disk.announced
        and node.cid_epochs == (node.seal_with,)
    )
