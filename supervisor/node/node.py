"""Every decision of the supervisor: `Node.handle(happening, now_s)` returns commands. No I/O, no clock, no randomness.

The shell (supervisor/shell.py) reports what happens and carries out the commands, in order. Each happening goes to the
file of its subject; afterwards the steps that follow from the new state are taken (`_go_on`), and steering and rosters
follow the workers' states (routes.py). The state is in state.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from supervisor.node import (
    deadlines,
    draining,
    exits,
    happenings,
    key_change,
    reloading,
    reports,
    requests,
    rolling,
    staffing,
)
from supervisor.node.commands import Command, Quit
from supervisor.node.core import keep_idle_slots
from supervisor.node.happenings import Happening
from supervisor.node.lifecycle import NodeEvent, NodeState
from supervisor.node.state import State


@dataclass(slots=True)
class Node(State):
    """All workers of one machine, and what to do next."""

    def handle(self, happening: Happening, now_s: float) -> list[Command]:
        """Take in a happening and return the commands that follow.

        Raises `CannotDo` for a request that the node refuses; nothing has changed then.
        """
        self.now_s = now_s
        self.commands = []
        _take(self, happening)
        _go_on(self)
        draining.go_on(self)
        first, last = self.routes.update(self.workers, self.departed, accepts=self.accepts, next_id=self.ids.next_id)
        return [*first, *self.commands, *last, *keep_idle_slots(self.workers, self.settings.cores)]

    def next_deadline_s(self) -> float | None:
        """Return when `Ticked` is due."""
        return deadlines.next_due_s(self)

    def behind_s(self, now_s: float) -> float:
        """Return for how long `Ticked` has been due: the shell does not come to it."""
        due_s = self.next_deadline_s()
        return 0.0 if due_s is None else max(0.0, now_s - due_s)

    def may_restart(self, cores: tuple[int, ...] | None) -> list[int]:
        """Return the cores that `Restart` would restart, or raise `CannotDo`."""
        return rolling.may_restart(self, cores)


def _take(node: State, happening: Happening) -> None:
    match happening:
        case happenings.Started():
            staffing.started(node, happening)
        case happenings.Reported(worker_id, report):
            reports.heard(node, worker_id, report)
        case happenings.Exited(worker_id, status, out_of_memory):
            exits.exited(node, worker_id, status, out_of_memory=out_of_memory)
        case happenings.HungUp(worker_id):
            exits.hung_up(node, worker_id)
        case happenings.Broke(worker_id, reason):
            exits.condemn(node, worker_id, reason)
        case happenings.Ticked(progress):
            deadlines.ticked(node, progress)
        case happenings.Counted(handshakes):
            draining.count(node, handshakes)
        case happenings.DisableFileWritten(error):
            draining.written(node, error)
        case happenings.DisableFileRemoved():
            if node.contract:
                node.contract.file_there = False
        case happenings.Quiesce():
            requests.quiesce(node, happening)
        case happenings.DrainNode(terms):
            draining.begin(node, terms)
        case happenings.Resume():
            requests.resume(node)
        case happenings.Restart(cores):
            rolling.begin(node, cores)
        case happenings.Reload(revision):
            reloading.begin(node, revision)
        case happenings.ReloadFailed(revision, reason):
            reloading.note_failure(node, revision, reason)
        case happenings.AbortOld(age_s):
            requests.abort_old(node, age_s)
        case happenings.Scale(count):
            staffing.scale(node, count)
        case happenings.UseEpochs():
            key_change.begin(node, happening)
        case happenings.MoveFrom(epochs, spread_s):
            key_change.move_from(node, epochs, spread_s)
        case happenings.StopNode(fast):
            requests.stop(node, fast=fast)
        case _ as forgotten:
            assert_never(forgotten)


def _go_on(node: State) -> None:
    """Take the steps that follow from what has just been taken in."""
    if node.state is NodeState.STOPPING:
        if not node.workers:
            node.advance(NodeEvent.ALL_GONE)
            node.commands.append(Quit(node.exit_code))
        return
    staffing.respawn_due(node)
    rolling.bring_up(node)
    key_change.retire_idle(node)
    staffing.shrink(node)
    if node.state is NodeState.STARTING and _complete(node):
        node.advance(NodeEvent.ALL_READY)
        if wish := node.quiesce_first:
            requests.quiesce(node, wish)
            node.quiesce_first, node.came_back = None, True
            node.state_since_s = node.now_s if wish.since_s is None else wish.since_s
    drained = _complete(node) and all(worker.drained for worker in node.staying)
    if node.state is NodeState.QUIESCING and not node.accepts and drained:
        since_s = node.state_since_s
        node.advance(NodeEvent.EMPTY)
        if node.came_back:
            node.state_since_s = since_s  # it has been quiesced since then
        node.say("quiesced: no connection is left")


def _complete(node: State) -> bool:
    """Whether every wanted core has a worker that serves."""
    return len({worker.core for worker in node.staying if worker.serving}) >= node.target
