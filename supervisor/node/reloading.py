"""A reload: every worker prepares a revision before any worker uses it. Pure.

A reload is an agreement (agreement.py): it ends when all workers have prepared the revision (`finish`), or when one of
them refuses it or is late (`fail`), which changes nothing. Which configuration a revision names is known to the shell.
"""

from __future__ import annotations

from supervisor.node import orders
from supervisor.node.agreement import Agreement
from supervisor.node.commands import Activated
from supervisor.node.lifecycle import WorkerState
from supervisor.node.state import ReloadResult, State
from velocity_edge.errors import CannotDo


def begin(node: State, revision: int) -> None:
    """Have every worker prepare *revision*, and use it if all can."""
    if node.stopping:
        raise CannotDo("cannot reload: the node is stopping")
    if revision <= max(node.revision, node.reloading.target if node.reloading else 0):
        raise CannotDo(f"cannot reload: revision {revision} is not new")
    waiting = {worker.worker_id for worker in node.workers.values() if worker.serving}
    # Where workers cannot even start with the revision in use, another one can only be better.
    failing = any(core.start_failures for core in node.cores)
    if not waiting and not failing:
        raise CannotDo("cannot reload: no worker is up to try it")
    node.reloading = Agreement(revision, waiting, node.now_s + node.settings.prepare_timeout_s, began_s=node.now_s)
    if not waiting:
        finish(node)
    for worker_id in sorted(waiting):
        orders.give_config(node, node.workers[worker_id], revision)


def finish(node: State) -> None:
    """All workers are prepared: activate."""
    assert node.reloading is not None
    revision, took_s, node.reloading = node.reloading.target, node.now_s - node.reloading.began_s, None
    node.revision = revision
    node.last_reload = ReloadResult(revision, True, "", node.now_s, took_s)
    node.commands.append(Activated(revision))
    for worker in node.workers.values():
        if worker.prepared == revision and worker.serving:
            orders.activate(node, worker)
        elif worker.hello and (worker.serving or worker.state is WorkerState.STARTING):
            # It started meanwhile, with the earlier revision.
            orders.give_config(node, worker, revision)
    node.say(f"revision {revision} is in use")


def fail(node: State, reason: str) -> None:
    """A worker cannot use the revision: nothing has changed."""
    assert node.reloading is not None
    revision, node.reloading = node.reloading.target, None
    note_failure(node, revision, reason)
    for worker in node.workers.values():
        if worker.serving and worker.revision != node.revision and worker.given == revision:
            orders.give_config(node, worker, node.revision)  # it has not got there yet


def note_failure(node: State, revision: int, reason: str) -> None:
    """Note and log why a revision is not used."""
    node.last_reload = ReloadResult(revision, False, reason, node.now_s)
    node.say(f"cannot reload: {reason.removeprefix('cannot reload: ')}; revision {node.revision} stays", "error")
