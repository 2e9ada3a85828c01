"""A change of keys in the life of a node: everybody holds the new table before anybody seals with its epoch. Pure.

Which epochs' connection IDs are still needed is decided in epochs.py, when a rotation is due in
velocity_edge/keys/table.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.node.agreement import Agreement
from supervisor.node.commands import GiveKeys, UseCidKeys
from supervisor.node.epochs import refuse_table
from supervisor.node.happenings import UseEpochs
from supervisor.node.lifecycle import NodeState, WorkerState
from supervisor.node.requests import Requests
from velocity_edge.errors import CannotDo
from velocity_edge.wire import messages as m


@dataclass(slots=True)
class Rotations(Requests):
    """The state of a node, and how its keys change."""

    def use_epochs(self, wish: UseEpochs) -> None:
        """Have its epochs accepted everywhere, then seal with `seal_with`."""
        epochs, seal_with = wish.epochs, wish.seal_with
        if self.key_change:
            raise CannotDo("cannot rotate keys: a rotation is under way")
        if self.state in (NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo("cannot rotate keys: the node is stopping")
        live = tuple(sorted({*self.cid_epochs, seal_with}, reverse=True))
        refuse_table(epochs, seal_with, live, wish.closed)
        self.epochs, self.cid_epochs, self.closed_epochs = epochs, live, wish.closed
        self.announced = seal_with if seal_with != self.seal_with else 0
        # Packet programs first: a connection ID of the new epoch may come as soon as one worker seals with it.
        self.commands.append(UseCidKeys(live))
        # One that stops gets the keys, too, but may be gone before it says so.
        waiting = {v.worker_id for v in self.workers.values() if v.hello and not v.ending}
        self.key_change = Agreement(seal_with, waiting, self.now_s + self.settings.keys_timeout_s)
        self._give_keys()
        if not waiting:
            self.finish_key_change()

    def finish_key_change(self) -> None:
        """Everybody holds the new table: seal with its epoch."""
        assert self.key_change is not None
        before, self.seal_with, self.key_change = self.seal_with, self.key_change.target, None
        self.announced = 0
        if before == self.seal_with:
            self.say("everybody has the keys")
            return
        self.lingering[before] = self.now_s + self.settings.quarantine_s
        self._give_keys()
        self.say(f"epoch {self.seal_with} seals")

    def retire_epochs(self, idle: tuple[int, ...]) -> None:
        """Nobody holds a connection ID of these epochs: they need not decode any more."""
        self.cid_epochs = tuple(epoch for epoch in self.cid_epochs if epoch not in idle)
        self.epochs = tuple(e for e in self.epochs if e in self.cid_epochs or e not in self.closed_epochs)
        self.closed_epochs = tuple(epoch for epoch in self.closed_epochs if epoch in self.epochs)
        self.moving -= {*idle}
        self.commands.append(UseCidKeys(self.cid_epochs))
        self._give_keys()
        for epoch in idle:
            self.say(f"no connection is left on epoch {epoch}")

    def move_from(self, epochs: tuple[int, ...], spread_s: float) -> None:
        """Have the connections that hold ids of these epochs change their ids, or leave."""
        if self.state in (NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo("cannot move connections: the node is stopping")
        if self.key_change:
            raise CannotDo("cannot move connections: a rotation is under way")
        epochs = tuple(epoch for epoch in epochs if epoch in self.cid_epochs)
        if self.seal_with in epochs:
            raise CannotDo(f"cannot move connections off epoch {self.seal_with}: it seals; rotate first")
        self.moving |= {*epochs}
        for worker in self.workers.values():
            if worker.serving:
                self.tell(worker, m.Move(sorted(self.moving), spread_s))

    def _give_keys(self) -> None:
        for worker in self.workers.values():
            if worker.hello and worker.state is not WorkerState.KILLED:
                self.commands.append(GiveKeys(worker.worker_id, self.epochs, self.seal_with))
