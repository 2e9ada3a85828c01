"""Who sits on which core: how a node begins, with workers that an earlier one left or without, rolls and shrinks.

Pure; between requests.py, which says what is wanted, and node.py, which has the life of each worker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from supervisor.node import draining as drains
from supervisor.node.commands import GiveKeys, RemoveDisableFile, WriteDisableFile
from supervisor.node.drain_contract import Event
from supervisor.node.happenings import Adopted, Rolling, Started
from supervisor.node.key_change import Rotations
from supervisor.node.lifecycle import NodeEvent, WorkerState
from supervisor.node.rollout import Rollout, RolloutState
from supervisor.node.routes import current_worker
from supervisor.node.worker import Core, Worker


@dataclass(slots=True)
class Staffing(Rotations):
    """The state of a node, and who takes and leaves its cores."""

    # --- the beginning ---

    def _start(self, started: Started) -> None:
        if (wish := started.quiesced) and wish.since_s is not None and not 0 <= wish.since_s <= self.now_s:
            started = replace(started, quiesced=replace(wish, since_s=self.now_s))  # no time of this boot
        self.departed = dict(started.departed)
        # Connections of before may still speak, and get resets.
        self.lingering = dict.fromkeys(self.cid_epochs, self.now_s + self.settings.quarantine_s)
        self.routes.begin_with(started.lent)
        for worker_id in started.accepting:
            if gone := self.departed.get(worker_id):
                self.cores[gone.core].respawn_slot = gone.slot
        stays = {a.core for a in started.adopted if not a.leaving}
        for a in started.adopted:
            # Who was to leave and has not begun to stays when the one in its place is dead.
            leaves = a.leaving and (a.hello.draining or a.core in stays or a.core >= self.target)
            self._adopt(a, leaves=leaves)
        if started.adopted and started.rolling:
            self._go_on_rolling(started.rolling)
        for core in range(self.target):
            if current_worker(self.workers.values(), core) is None:
                self._respawn(self.cores[core])
        if started.adopted:
            self.say(f"adopted {len(started.adopted)} workers that served on without a supervisor")
            self.advance(NodeEvent.ALL_READY)
            self._first_orders(started)
        else:
            self._begin_anew(started)

    def _begin_anew(self, started: Started) -> None:
        """Nobody lives who could be adopted."""
        if started.accepting:
            dead = len(started.accepting)
            self.say(f"{dead} workers died with an earlier supervisor: connections of theirs get resets", "warning")
        self.contract = started.contract
        if self.contract:
            # Nobody is left who could be drained.
            self.contract.happen(Event.STOP, self.now_s)
            if self.contract.file_there:
                wish = None if self.contract.released else started.quiesced
                self.commands.append(WriteDisableFile(wish.reason) if wish else RemoveDisableFile())
        if wish := started.quiesced:
            # It was announced to clients before; nobody is let in meanwhile (`accepts`).
            self.quiesce_first = replace(wish, announce_s=0.0)
            why = f" ({wish.reason})" if wish.reason else ""
            self.say(f"starting quiesced, as the node was{why}; `velocity-edge admin resume` lets clients in")

    def _adopt(self, a: Adopted, *, leaves: bool) -> None:
        worker = Worker(a.worker_id, a.core, a.slot, self.now_s, None, hello=a.hello, heard_s=self.now_s)
        worker.state = WorkerState.DRAINING if a.hello.draining else WorkerState.READY
        worker.ready_s, worker.revision = self.now_s, a.hello.revision
        if leaves:
            self.dismiss(worker, a.leave_by_s)
        else:
            for older in self.workers.values():
                # The newcomer of a rollout became ready while nobody was there to see it.
                if older.core == a.core:
                    self.dismiss(older)
        self.workers[a.worker_id] = worker
        self.commands.append(GiveKeys(a.worker_id, self.epochs, self.seal_with))

    def _first_orders(self, started: Started) -> None:
        """Bring those that were adopted to what the node wants: an earlier supervisor may have been cut off halfway."""
        rolling = self.rollout.cores if self.rollout and self.rollout.running else []
        for worker in self.workers.values():
            # Whoever is replaced anyway need not understand it.
            if worker.serving and worker.revision != self.revision and worker.core not in rolling:
                self.give(worker, self.revision)
        self.adoptions = started.adoptions + 1
        if started.quiesced and started.contract and started.contract.running:
            drains.adopt(self, started.contract, started.quiesced)
        elif started.quiesced:
            self.quiesce(started.quiesced)
        else:
            self.resume_workers()
        if self.contract is None:
            self.contract = started.contract
        if self.contract and self.contract.file_there and not self.quiesced:
            self.commands.append(RemoveDisableFile())  # the earlier one was killed before it could
        if started.quiesced and started.quiesced.since_s is not None:
            self.state_since_s = started.quiesced.since_s

    def _go_on_rolling(self, rolling: Rolling) -> None:
        cores = [core for core in rolling.cores if core < self.target]
        if not cores:
            return
        self.rollout = Rollout(cores)
        self.say(f"the rolling restart goes on with {len(cores)} workers")
        newcomer = self.workers.get(rolling.newcomer or 0)
        if newcomer and newcomer.core == cores[0] and not newcomer.doomed:
            self.rollout.newcomer = newcomer.worker_id
            self._hand_over(newcomer)

    # --- changes of hands ---

    def _respawn(self, core: Core) -> None:
        """Start the successor in the slot of the dead, where packets wait; in the other one when that is taken."""
        slots = self._free_slots(core.index)
        if slots:
            self.spawn(core.index, core.respawn_slot if core.respawn_slot in slots else slots[0])
        else:
            # Two workers that leave still sit here.
            core.respawn_s = self.now_s + 1.0

    def _bring_up(self) -> None:
        """Start the newcomer of a rollout, as soon as its core has a free slot."""
        rollout = self.rollout
        if rollout is None or rollout.state is not RolloutState.BRINGING_UP or rollout.newcomer is not None:
            return
        core = rollout.cores[0]
        if slots := self._free_slots(core):
            rollout.newcomer = self.spawn(core, slots[0])

    def _hand_over(self, newcomer: Worker) -> None:
        assert self.rollout is not None
        old = [v for v in self.workers.values() if v.core == newcomer.core and v is not newcomer]
        for worker in old:
            self.dismiss(worker)
        self.rollout.ready({worker.worker_id for worker in old})
        self._bring_up()

    def _shrink(self) -> None:
        """Let workers of cores that are not wanted leave, once somebody else is there for new connections."""
        surplus = [worker for worker in self.workers.values() if worker.core >= self.target and not worker.doomed]
        if surplus:
            others = any(v.serving and not v.doomed and v.core < self.target for v in self.workers.values())
            for worker in surplus:
                if others or not worker.serving:
                    self.dismiss(worker)
