"""Operations on the workers: restart, reload, upgrade, abort, scale, stop. The rules for all are in service.py.

Quiesce, drain and resume are in leaving.py, operations on keys in tickets.py. The Node decides what happens; these
operations wait for it and yield lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from supervisor.admin.drain_lines import many
from supervisor.chores.reloads import Reloads
from supervisor.chores.upgrades import Upgrades
from supervisor.node.happenings import AbortOld, Restart, Scale, StopNode
from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from velocity_edge import __version__
from velocity_edge.admin import requests
from velocity_edge.admin.answers import Aborted, Answer, Configured, Reloaded, Restarted, Upgrading
from velocity_edge.errors import CannotDo
from velocity_edge.exits import Exit

#: Workers answer at once, unless they hang.
_ABORT_S: Final = 3.0
#: A line this often while nothing happens, so that the operator sees what is waited for.
_STILL_HERE_S: Final = 5.0


class Operations:
    """The operations of one node."""

    def __init__(self, shell: Shell, reloads: Reloads, upgrades: Upgrades) -> None:
        self._shell = shell
        self._reloads = reloads
        self._upgrades = upgrades

    async def restart(self, request: requests.Restart) -> AsyncIterator[Answer]:
        """Restart workers, one after the other; with `dry_run`, only say what would be done."""
        node = self._shell.node
        cores: tuple[int, ...] | None = None
        if request.worker_id is not None:
            worker = node.workers.get(request.worker_id)
            if worker is None:
                raise CannotDo(f"cannot restart worker {request.worker_id}: there is no such worker")
            cores = (worker.core,)
        elif request.core is not None:
            cores = (request.core,)
        if request.dry_run:
            chosen = node.may_restart(cores)
            old = [worker.worker_id for core in chosen for worker in node.workers.values() if worker.core == core]
            words = ", ".join(map(str, old))
            yield Answer(
                f"would replace the workers {words}, one core after the other; nothing was changed", None, Exit.DONE
            )
            return
        self._shell.happen(Restart(cores))
        rollout = self._shell.node.rollout
        assert rollout is not None
        async for line in self._follow(lambda: rollout.running):
            yield line
        if rollout.reason:
            yield Answer(f"cannot restart: {rollout.reason}", None, Exit.FAILED)
        else:
            text = f"restarted {rollout.total} workers, lost={rollout.lost}"
            yield Answer(text, Restarted(lost=rollout.lost), Exit.DONE)

    async def reload(self, _: requests.Reload) -> AsyncIterator[Answer]:
        """Read the configuration again and use it, or change nothing.

        The watch on the files may see the same change a moment later: then the answer has its revision.
        """
        revision = self._reloads.reload()
        node = self._shell.node
        async for line in self._follow(lambda: node.reloading is not None and node.reloading.target >= revision):
            yield line
        result = node.last_reload
        if result and result.revision >= revision and result.ok:
            text = f"revision {result.revision} is in use"
            yield Answer(text, Reloaded(revision=result.revision), Exit.DONE)
        else:
            reason = result.reason if result else "the node has no result of it"
            yield Answer(f"cannot reload: {reason}", None, Exit.FAILED)

    async def config(self, _: requests.ShowConfig) -> AsyncIterator[Answer]:
        """Return the configuration that is in use."""
        materials = self._shell.active
        facts = Configured(revision=materials.revision, config=materials.config_json)
        yield Answer(f"revision {materials.revision} is in use", facts, Exit.DONE)

    async def upgrade(self, _: requests.Upgrade) -> AsyncIterator[Answer]:
        """Run the installation that is on disk now. The status of the new supervisor says how it goes on."""
        version = await self._upgrades.upgrade()
        text = f"upgrading from {__version__} to {version}: the new supervisor adopts the workers and restarts them"
        yield Answer(text, Upgrading(before=__version__, after=version), Exit.DONE)

    async def abort(self, request: requests.Abort) -> AsyncIterator[Answer]:
        """Close old connections, and count them."""
        shell = self._shell
        shell.happen(AbortOld(request.age_s))
        yield Answer("workers close old connections")
        end_s = shell.clock() + _ABORT_S
        while shell.node.aborting and shell.clock() < end_s:
            await shell.wait_for_change(0.5)
        closed, lost = (sum(getattr(a, name) for a in shell.node.aborted) for name in ("connections", "requests"))
        text = f"closed {many(closed, 'connection')}, on which {many(lost, 'request')} ran"
        facts = Aborted(connections=closed, lost=lost)
        if shell.node.aborting:
            text = f"{text}; {many(len(shell.node.aborting), 'worker')} did not answer"
            yield Answer(text, facts, Exit.TIMED_OUT)
        else:
            yield Answer(text, facts, Exit.DONE)

    async def scale(self, request: requests.Scale) -> AsyncIterator[Answer]:
        """Change the number of workers."""
        node = self._shell.node
        self._shell.happen(Scale(request.workers))

        def settled() -> bool:
            workers = node.workers.values()
            return all(worker.serving and not worker.leaving for worker in workers) and len(workers) == node.target

        async for line in self._follow(lambda: not settled()):
            yield line
        yield Answer(f"{node.target} workers", None, Exit.DONE)

    async def stop(self, request: requests.Stop) -> AsyncIterator[Answer]:
        """Stop the node. The last line comes when no worker, socket, program or lock of it is left.

        A second request attaches to a stop that is under way; with `fast` it makes it faster.
        """
        shell = self._shell
        if shell.successor:
            raise CannotDo("cannot stop: an upgrade is under way; ask the new supervisor in a moment")
        shell.stopped_for_good = True
        shell.happen(StopNode(request.fast))
        yield Answer("stopping at once" if request.fast else "stopping: connections drain first")
        with self._node_log() as said:
            said_s = shell.clock()
            while not shell.closed:
                await shell.wait_for_change(1.0)
                while not said.empty():
                    yield said.get_nowait()
                    said_s = shell.clock()
                if shell.clock() - said_s >= _STILL_HERE_S and not shell.closed:
                    said_s = shell.clock()
                    workers = shell.node.workers.values()
                    left = sum(worker.heartbeat.connections for worker in workers if worker.heartbeat)
                    yield Answer(f"{many(len(workers), 'worker')} left, {many(left, 'connection')}")
        yield Answer("stopped", None, Exit.DONE)

    async def _follow(self, under_way: Callable[[], bool]) -> AsyncIterator[Answer]:
        """Yield what the node logs, until the operation is over or the node stops."""
        with self._node_log() as said:
            yield Answer("under way")
            while under_way() and self._shell.node.state is not NodeState.STOPPING:
                await self._shell.wait_for_change(1.0)
                while not said.empty():
                    yield said.get_nowait()

    @contextmanager
    def _node_log(self) -> Iterator[asyncio.Queue[Answer]]:
        """Collect what the node logs."""
        said: asyncio.Queue[Answer] = asyncio.Queue()

        def listener(level: str, text: str) -> None:
            if said.qsize() < 1000:
                said.put_nowait(Answer(text, level=level))

        self._shell.listeners.append(listener)
        try:
            yield said
        finally:
            self._shell.listeners.remove(listener)
