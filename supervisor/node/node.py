"""Every decision of the supervisor: `Node.handle(happening, now_s)` returns commands. No I/O, no clock, no dice.

The shell feeds it what happens and carries out what it wants, in order. The life of workers is here; who gets which
packets follows from their states (routes.py), what an operator asks for is in requests.py, who sits on which core in
staffing.py, a rolling restart is a machine of its own (rollout.py).

Facts and no answers: a worker is equipped when it said Hello, activated when it is Prepared, serves when it says Ready.
What does not come in time is a fact too (`_overdue`). A worker without heartbeats is not yet hung: while its slab shows
progress it is busy, which is said and not punished (`_look`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from supervisor.node import draining as drains
from supervisor.node import happenings
from supervisor.node.agreement import Agreement
from supervisor.node.commands import Command, Equip, GiveKeys, Kill, Quit, Tell
from supervisor.node.core import keep_idle_slots
from supervisor.node.epochs import idle_epochs
from supervisor.node.lifecycle import NodeEvent, NodeState, WorkerEvent, WorkerState
from supervisor.node.rollout import RolloutState
from supervisor.node.routes import current_worker, desired_roster
from supervisor.node.staffing import Staffing
from supervisor.node.worker import Worker, describe_exit
from velocity_edge.wire import messages as m


@dataclass(slots=True)
class Node(Staffing):
    """Every worker of one machine, and what to do next."""

    def handle(self, happening: happenings.Happening, now_s: float) -> list[Command]:
        """Take in what happened, and return what to do about it.

        Raises `CannotDo` for a request that the node refuses; nothing has changed then.
        """
        self.now_s = now_s
        self.commands = []
        self._take(happening)
        self._go_on()
        drains.go_on(self)
        first, last = self.routes.update(self.workers, self.departed, accepts=self.accepts, next_id=self.ids.next_id)
        return [*first, *self.commands, *last, *keep_idle_slots(self.workers, self.settings.cores)]

    def _take(self, happening: happenings.Happening) -> None:
        match happening:
            case happenings.Started():
                self._start(happening)
            case happenings.Reported(worker_id, report):
                self._heard(worker_id, report)
            case happenings.Exited(worker_id, status, out_of_memory):
                self._exited(worker_id, status, out_of_memory=out_of_memory)
            case happenings.HungUp(worker_id):
                self._hung_up(worker_id)
            case happenings.Broke(worker_id, reason):
                self._condemn(worker_id, reason)
            case happenings.Ticked(progress):
                self._tick(progress)
            case happenings.Counted(handshakes):
                self._counted(handshakes)
            case happenings.DisableFileWritten(error):
                drains.written(self, error)
            case happenings.DisableFileRemoved():
                if self.contract:
                    self.contract.file_there = False
            case happenings.Quiesce():
                self.quiesce(happening)
            case happenings.DrainNode(terms):
                drains.begin(self, terms)
            case happenings.Resume():
                self.resume()
            case happenings.Restart(cores):
                self.restart(cores)
            case happenings.Reload(revision):
                self.reload(revision)
            case happenings.ReloadFailed(revision, reason):
                self.reload_failed(revision, reason)
            case happenings.AbortOld(age_s):
                self.abort_old(age_s)
            case happenings.Scale(count):
                self.scale(count)
            case happenings.UseEpochs():
                self.use_epochs(happening)
            case happenings.MoveFrom(epochs, spread_s):
                self.move_from(epochs, spread_s)
            case happenings.StopNode(fast):
                self.stop(fast=fast)
            case _ as forgotten:
                assert_never(forgotten)

    # --- what a worker says -----------------------------------------------------------------------------------------

    def _heard(self, worker_id: int, report: m.Report) -> None:
        worker = self.workers.get(worker_id)
        if worker is None or worker.state is WorkerState.KILLED:
            return  # last words
        if worker.busy:
            silent_s = self.now_s - worker.heard_s
            self.say(f"worker {worker_id} reports again, after {silent_s:.0f} s", worker=worker)
        worker.heard_s, worker.progress, worker.busy = self.now_s, None, False
        match report:
            case m.Hello():
                self._hello(worker, report)
            case m.Held():
                self._condemn(worker_id, "it returned descriptors that nobody asked for")
            case m.Prepared(revision):
                self._prepared(worker, revision)
            case m.Refused(revision, reason):
                self._refused(worker, revision, reason)
            case m.Ready(revision):
                self._ready(worker, revision)
            case m.KeysInUse():
                self._keys_in_use(worker, report)
            case m.Heartbeat():
                worker.heartbeat, worker.by_config = report, report.connections_by_config
            case m.Drained(lost, cut):
                self._drained(worker, lost, cut)
            case m.Aborted():
                self.aborted.append(report)
                self.aborting.discard(worker_id)
            case _ as forgotten:
                assert_never(forgotten)

    def _hello(self, worker: Worker, hello: m.Hello) -> None:
        if not m.speaks(hello):
            theirs = f"{hello.oldest_protocol} to {hello.protocol_version}"
            reason = f"it speaks the protocols {theirs}, we speak {m.OLDEST_PROTOCOL} to {m.PROTOCOL_VERSION}"
            self._condemn(worker.worker_id, reason)
            return
        if worker.hello or hello.worker_id != worker.worker_id:
            self._condemn(worker.worker_id, "it said an unexpected Hello")
            return
        worker.hello = hello
        if worker.state is not WorkerState.STARTING:
            return
        worker_id = worker.worker_id
        worker.roster = desired_roster(self.workers, self.ids.next_id)
        self.commands += [
            Equip(worker_id, worker.slot, self._other_slot(worker.slot)),
            GiveKeys(worker_id, self.epochs, self.seal_with),
            Tell(worker_id, worker.roster),
        ]
        self.give(worker, self.revision)

    def _prepared(self, worker: Worker, revision: int) -> None:
        worker.prepared = revision
        if revision == self.revision:
            if worker.given == revision:
                self.activate(worker)
        elif self.reloading and revision == self.reloading.target and self.reloading.acknowledge(worker.worker_id):
            self.finish_reload()

    def _refused(self, worker: Worker, revision: int, reason: str) -> None:
        if self.reloading and revision == self.reloading.target:
            self.fail_reload(f"worker {worker.worker_id} refused: {reason}")
        elif revision == self.revision:
            self._condemn(worker.worker_id, f"it refused: {reason}")
            if self.state is NodeState.STARTING:
                self._fail_start(reason)
        # Otherwise it refused what has been superseded.

    def _ready(self, worker: Worker, revision: int) -> None:
        worker.revision = revision
        if revision == self.revision:
            worker.activation_due_s = None
        if worker.state is not WorkerState.STARTING:
            return
        worker.advance(WorkerEvent.READY)
        worker.ready_s, worker.deadline_s = self.now_s, None
        self.cores[worker.core].start_failures = 0
        took_s = self.now_s - worker.started_s
        self.say(f"worker {worker.worker_id} serves core {worker.core} after {took_s:.1f} s", worker=worker)
        if self.rollout and self.rollout.newcomer == worker.worker_id:
            self._hand_over(worker)
        if self.draining_order and not worker.doomed:
            # While a discouraged node only announces to take none any more, it still takes them.
            self._drain(worker, self.draining_order if self.discouraging else self.drain_order())

    def _counted(self, handshakes: int) -> None:
        if self.contract and self.contract.running:
            beats = [worker.heartbeat for worker in self.workers.values() if worker.heartbeat]
            self.contract.left.add(self.now_s, sum(beat.connections for beat in beats))
            self.contract.count(self.now_s, handshakes, accepts=self.accepts)

    def _keys_in_use(self, worker: Worker, report: m.KeysInUse) -> None:
        if worker.keys_in_use is None or worker.keys_in_use.seal_with != report.seal_with:
            worker.by_config = None  # until then it may have given out ids of the earlier epoch
        worker.keys_in_use = report
        change = self.key_change
        # A worker of an earlier version cannot close an epoch, and is no reason to wait.
        closed = report.closed is None or set(self.closed_epochs) <= set(report.closed)
        has_all = set(self.epochs) <= set(report.epochs) and closed
        if change and has_all and change.acknowledge(worker.worker_id):
            self.finish_key_change()

    def _drained(self, worker: Worker, lost: int, cut: int) -> None:
        if worker.state is not WorkerState.DRAINING or (self.discouraging and not worker.leaving):
            return  # resumed or stopped meanwhile; or others have come in its place
        worker.drained, worker.lost, worker.cut = True, lost, cut
        if self.rollout and worker.worker_id in self.rollout.old:
            self.rollout.lost += lost
        if lost:
            self.say(f"worker {worker.worker_id} drained, {lost} requests lost at the deadline", "warning", worker)
        if worker.leaving:
            self._stop_worker(worker)

    # --- the end of a worker -----------------------------------------------------------------------------------------

    def _exited(self, worker_id: int, status: int | None, *, out_of_memory: bool) -> None:
        worker = self.workers.pop(worker_id)
        planned = worker.leaving or self.state is NodeState.STOPPING
        worker.advance(WorkerEvent.EXITED)
        if worker.ready_s is not None or worker_id in self.routes.accepting:
            # One that never served has no packets of its own, but new connections may wait in its slot.
            until_s = self.now_s + (0.0 if worker.ready_s is None else self.settings.quarantine_s)
            self.departed[worker_id] = happenings.Departed(worker.core, worker.slot, until_s)
        drains.worker_gone(self, worker, planned=planned)
        self.aborting.discard(worker_id)
        how = worker.reason or describe_exit(status, out_of_memory=out_of_memory)
        if planned and status in (0, None):
            self.say(f"worker {worker_id} of core {worker.core} is gone", worker=worker)
        else:
            self.say(f"worker {worker_id} of core {worker.core} died: {how}", "error", worker)
        self._not_waited_for(worker_id)
        if self.rollout and self.rollout.running:
            if worker_id in self.rollout.old and not worker.drained:
                self.rollout.lost += worker.running_requests
            newcomer_failed = worker_id == self.rollout.newcomer and self.rollout.state is RolloutState.BRINGING_UP
            self.rollout.gone(worker_id)
            if newcomer_failed:
                self.rollout.reason = f"worker {worker_id} did not become ready: {how}"
                self.say(f"cannot restart: {self.rollout.reason}; the rest goes on as it was", "error")
            elif self.rollout.state is RolloutState.DONE:
                # The only verdict of a restart that nobody waits for, such as an upgrade by a signal.
                self.say(
                    f"the rolling restart is done: {self.rollout.total} workers replaced, lost={self.rollout.lost}"
                )
        if not planned:
            self._replace(worker, how)

    def _replace(self, dead: Worker, how: str) -> None:
        core = self.cores[dead.core]
        if core.index >= self.target or current_worker(self.workers.values(), core.index):
            return  # scaled down, or the newcomer of a rollout is there already
        served_s = None if dead.ready_s is None else self.now_s - dead.ready_s
        if served_s is None:
            core.start_failures += 1
            if self.state is NodeState.STARTING and core.start_failures >= self.settings.max_start_failures:
                self._fail_start(f"worker {dead.worker_id} of core {core.index} did not become ready: {how}")
                return
        core.restarts += 1
        delay_s = core.backoff.delay_s(served_s)
        core.respawn_s, core.respawn_slot = self.now_s + delay_s, dead.slot
        if delay_s:
            self.say(f"core {core.index} gets another worker in {delay_s:g} s")

    def _fail_start(self, reason: str) -> None:
        if self.state is not NodeState.STARTING:
            return
        self.exit_code, self.failure = 1, f"cannot start: {reason}"
        self.say(self.failure, "error")
        self.advance(NodeEvent.START_FAILED)
        self.stop_all()

    def _hung_up(self, worker_id: int) -> None:
        worker = self.workers.get(worker_id)
        if worker and worker.state is not WorkerState.KILLED:
            # Its exit follows within milliseconds, unless only its channel is broken.
            worker.hung_up_due_s = self.now_s + self.settings.grace_s

    def _condemn(self, worker_id: int, reason: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is None or worker.state is WorkerState.KILLED:
            return
        worker.reason = reason
        worker.advance(WorkerEvent.CONDEMN)
        worker.deadline_s = worker.activation_due_s = worker.hung_up_due_s = None
        self.say(f"worker {worker_id} is killed: {reason}", "error", worker)
        self.commands.append(Kill(worker_id))
        self._not_waited_for(worker_id)

    def _not_waited_for(self, worker_id: int) -> None:
        """Complete the agreements that waited for this worker only."""
        if self.reloading and self.reloading.excuse(worker_id):
            if self.reloading.vouched:
                self.finish_reload()
            else:
                self.fail_reload("no worker lived to try it")
        if self.key_change and self.key_change.excuse(worker_id):
            self.finish_key_change()

    # --- time ------------------------------------------------------------------------------------------------------

    def behind_s(self, now_s: float) -> float:
        """Return for how long something has been due: workers are silent, and nobody has done anything about it."""
        due_s = self.next_deadline_s()
        return 0.0 if due_s is None else max(0.0, now_s - due_s)

    def next_deadline_s(self) -> float | None:
        """Return when `Ticked` is due."""
        times = [core.respawn_s for core in self.cores]
        times += [gone.until_s for worker_id, gone in self.departed.items() if worker_id not in self.routes.accepting]
        times += [agreement.deadline_s for agreement in (self.reloading, self.key_change) if agreement]
        times += [self.drain_at_s, self.contract.due_s if self.contract else None]
        for worker in self.workers.values():
            if worker.state is WorkerState.KILLED:
                continue
            times += [worker.deadline_s, worker.activation_due_s, worker.hung_up_due_s]
            if worker.serving:
                times += [self._look_due_s(worker), worker.alive_s + self.settings.heartbeat_timeout_s]
        return min((t for t in times if t is not None), default=None)

    def _tick(self, progress: Mapping[int, int]) -> None:
        now_s = self.now_s
        for worker_id, gone in list(self.departed.items()):
            # While nobody else is ready, new connections wait where the dead one sat.
            if gone.until_s <= now_s and worker_id not in self.routes.accepting:
                del self.departed[worker_id]
        for worker in list(self.workers.values()):
            if worker.serving:
                self._look(worker, progress.get(worker.worker_id))
            self._overdue(worker)
        for agreement in (self.reloading, self.key_change):
            if agreement and agreement.deadline_s <= now_s:
                self._disagreed(agreement)
        if self.drain_at_s is not None and self.drain_at_s <= now_s:
            self.drain_everybody()

    def _look_due_s(self, worker: Worker) -> float:
        """Return when to look next whether a silent worker makes progress: twice per time-out, to have two values."""
        return max(worker.alive_s, worker.looked_s) + self.settings.heartbeat_timeout_s / 2

    def _look(self, worker: Worker, progress: int | None) -> None:
        now_s, timeout_s = self.now_s, self.settings.heartbeat_timeout_s
        last_chance = worker.alive_s + timeout_s <= now_s
        if self._look_due_s(worker) > now_s and not last_chance:
            return
        worker.looked_s = now_s
        if progress is None:
            return
        before, worker.progress = worker.progress, progress
        if before is None:
            if last_chance:
                # We were late ourselves and have nothing to compare with: look once more before it is condemned.
                worker.progressed_s = now_s - timeout_s / 2
        elif progress != before:
            worker.progressed_s = now_s
        silent_s = now_s - worker.heard_s
        if worker.alive_s + timeout_s > now_s and silent_s >= timeout_s and not worker.busy:
            worker.busy = True
            text = f"worker {worker.worker_id} is busy: heartbeat late by {silent_s:.0f} s, but it makes progress"
            self.say(text, "warning", worker)

    def _overdue(self, worker: Worker) -> None:
        now_s, settings = self.now_s, self.settings
        if worker.state is WorkerState.KILLED:
            return
        if worker.hung_up_due_s is not None and worker.hung_up_due_s <= now_s:
            self._condemn(worker.worker_id, "it closed its channel")
        elif worker.serving and worker.alive_s + settings.heartbeat_timeout_s <= now_s:
            silent_s = now_s - worker.heard_s
            self._condemn(worker.worker_id, f"no heartbeat for {silent_s:.0f} s and no progress: it hangs")
        elif worker.activation_due_s is not None and worker.activation_due_s <= now_s:
            self._condemn(worker.worker_id, "it was activated and never became ready")
        elif worker.deadline_s is None or worker.deadline_s > now_s:
            pass
        elif worker.state is WorkerState.DRAINING:
            self._stop_worker(worker)
        elif worker.state is WorkerState.STARTING:
            self._condemn(worker.worker_id, f"it was not ready after {settings.start_timeout_s:g} s")
        else:
            self._condemn(worker.worker_id, "it did not stop")

    def _disagreed(self, agreement: Agreement) -> None:
        late = ", ".join(map(str, sorted(agreement.waiting)))
        if agreement is self.reloading:
            self.fail_reload(f"worker {late} did not answer within {self.settings.prepare_timeout_s:g} s")
        else:
            for worker_id in list(agreement.waiting):
                self._condemn(worker_id, "it did not acknowledge the keys")

    def _go_on(self) -> None:
        """Take the steps that follow from what has just been taken in."""
        if self.state is NodeState.STOPPING:
            if not self.workers:
                self.advance(NodeEvent.ALL_GONE)
                self.commands.append(Quit(self.exit_code))
            return
        for core in self.cores:
            if core.respawn_s is not None and core.respawn_s <= self.now_s:
                self._respawn(core)
        self._bring_up()
        self._retire_epochs()
        self._shrink()
        staying = [worker for worker in self.workers.values() if not worker.doomed]
        if self.state is NodeState.STARTING and self._complete(staying):
            self.advance(NodeEvent.ALL_READY)
            if wish := self.quiesce_first:
                self.quiesce(wish)
                self.quiesce_first, self.came_back = None, True
                self.state_since_s = self.now_s if wish.since_s is None else wish.since_s
        drained = self._complete(staying) and all(worker.drained for worker in staying)
        if self.state is NodeState.QUIESCING and not self.accepts and drained:
            since_s = self.state_since_s
            self.advance(NodeEvent.EMPTY)
            if self.came_back:
                self.state_since_s = since_s  # it has been so all the time
            self.say("quiesced: no connection is left")

    def _retire_epochs(self) -> None:
        """Stop decoding the connection IDs of epochs that nobody holds one of."""
        self.lingering = {epoch: until_s for epoch, until_s in self.lingering.items() if until_s > self.now_s}
        if self.key_change or self.departed:
            return
        if idle := idle_epochs(
            self.cid_epochs, self.seal_with, {*self.lingering, self.announced}, self.workers.values()
        ):
            self.retire_epochs(idle)

    def _complete(self, staying: list[Worker]) -> bool:
        return len({worker.core for worker in staying if worker.serving}) >= self.target
