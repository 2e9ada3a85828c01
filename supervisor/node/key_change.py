"""A change of keys: all workers hold the new table before any worker seals with its epoch. Pure.

A change is an agreement (agreement.py). Which epochs' connection IDs are still needed is decided in epochs.py, when a
rotation is due in velocity_edge/keys/table.py.
"""

from __future__ import annotations

from supervisor.node import orders
from supervisor.node.agreement import Agreement
from supervisor.node.commands import UseCidKeys
from supervisor.node.epochs import idle_epochs, refuse_table
from supervisor.node.happenings import UseEpochs
from supervisor.node.state import State
from velocity_edge.errors import CannotDo
from velocity_edge.wire import messages


def begin(node: State, wish: UseEpochs) -> None:
    """Have the epochs of *wish* accepted everywhere, then seal with `seal_with`."""
    epochs, seal_with = wish.epochs, wish.seal_with
    if node.key_change:
        raise CannotDo("cannot rotate keys: a rotation is under way")
    if node.stopping:
        raise CannotDo("cannot rotate keys: the node is stopping")
    live = tuple(sorted({*node.cid_epochs, seal_with}, reverse=True))
    refuse_table(epochs, seal_with, live, wish.closed)
    node.epochs, node.cid_epochs, node.closed_epochs = epochs, live, wish.closed
    node.announced = seal_with if seal_with != node.seal_with else 0
    # Packet programs first: a connection ID of the new epoch may come as soon as one worker seals with it.
    node.commands.append(UseCidKeys(live))
    # A worker that stops gets the keys, too, but may exit before it acknowledges them.
    waiting = {worker.worker_id for worker in node.workers.values() if worker.hello and not worker.ending}
    node.key_change = Agreement(seal_with, waiting, node.now_s + node.settings.keys_timeout_s)
    orders.give_keys(node)
    if not waiting:
        finish(node)


def finish(node: State) -> None:
    """All workers hold the new table: seal with its epoch."""
    assert node.key_change is not None
    before, node.seal_with, node.key_change = node.seal_with, node.key_change.target, None
    node.announced = 0
    if before == node.seal_with:
        node.say("all workers have the keys")
        return
    node.lingering[before] = node.now_s + node.settings.quarantine_s
    orders.give_keys(node)
    node.say(f"epoch {node.seal_with} seals")


def retire_idle(node: State) -> None:
    """Stop decoding the connection IDs of epochs of which no connection holds one."""
    node.lingering = {epoch: until_s for epoch, until_s in node.lingering.items() if until_s > node.now_s}
    if node.key_change or node.departed:
        return
    late = {*node.lingering, node.announced}
    if idle := idle_epochs(node.cid_epochs, node.seal_with, late, node.workers.values()):
        retire(node, idle)


def retire(node: State, idle: tuple[int, ...]) -> None:
    """No connection holds a connection ID of these epochs: take them out of the table."""
    node.cid_epochs = tuple(epoch for epoch in node.cid_epochs if epoch not in idle)
    node.epochs = tuple(e for e in node.epochs if e in node.cid_epochs or e not in node.closed_epochs)
    node.closed_epochs = tuple(epoch for epoch in node.closed_epochs if epoch in node.epochs)
    node.moving -= {*idle}
    node.commands.append(UseCidKeys(node.cid_epochs))
    orders.give_keys(node)
    for epoch in idle:
        node.say(f"no connection is left on epoch {epoch}")


def move_from(node: State, epochs: tuple[int, ...], spread_s: float) -> None:
    """Have the connections that hold ids of these epochs change their ids, or leave."""
    if node.stopping:
        raise CannotDo("cannot move connections: the node is stopping")
    if node.key_change:
        raise CannotDo("cannot move connections: a rotation is under way")
    epochs = tuple(epoch for epoch in epochs if epoch in node.cid_epochs)
    if node.seal_with in epochs:
        raise CannotDo(f"cannot move connections off epoch {node.seal_with}: it seals; rotate first")
    node.moving |= {*epochs}
    for worker in node.workers.values():
        if worker.serving:
            node.tell(worker, messages.Move(sorted(node.moving), spread_s))
