"""What an operator can have done, as steps that tell of themselves: each yields lines until it is over.

Taking leave (quiesce, drain, resume) is in departures.py; here is the rest.

The first line comes when the node has agreed; before it, a refusal is a `CannotDo` and nonsense in the request a
`Nonsense`. The last line has `ok` and an exit code (0 done, 1 failed, 4 time is up). Nothing is undone when nobody
listens any more: an operation belongs to the node, not to who asked for it. admin.py brings this to HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from supervisor.admin.drain_lines import many
from supervisor.admin.fields import Line, done, flag, number, only, whole
from supervisor.chores.upkeep import Upkeep
from supervisor.node.happenings import AbortOld, Restart, Scale, StopNode
from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from velocity_edge import __version__
from velocity_edge.errors import CannotDo

#: Workers answer at once, unless they are stuck.
_ABORT_S: Final = 3.0
#: A line this often while nothing happens: who waits should see that it is waited for.
_STILL_HERE_S: Final = 5.0


class Operations:
    """The operations of one node."""

    def __init__(self, shell: Shell, upkeep: Upkeep) -> None:
        self._shell = shell
        self._upkeep = upkeep

    async def restart(self, body: Line) -> AsyncIterator[Line]:
        """Restart workers, one after the other; with `dry_run`, say what would be done."""
        only(body, "worker_id", "core", "dry_run")
        cores: tuple[int, ...] | None = None
        if body.get("worker_id") is not None:
            worker_id = whole(body, "worker_id")
            worker = self._shell.node.workers.get(worker_id)
            if worker is None:
                raise CannotDo(f"cannot restart worker {worker_id}: there is none of that number")
            cores = (worker.core,)
        elif body.get("core") is not None:
            cores = (whole(body, "core"),)
        if flag(body, "dry_run"):
            chosen = self._shell.node.may_restart(cores)
            old = [v.worker_id for core in chosen for v in self._shell.node.workers.values() if v.core == core]
            words = ", ".join(map(str, old))
            yield done(f"would replace the workers {words}, one core after the other; nothing was changed", 0)
            return
        self._shell.happen(Restart(cores))
        rollout = self._shell.node.rollout
        assert rollout is not None
        async for line in self._follow(lambda: rollout.running):
            yield line
        if rollout.reason:
            yield done(f"cannot restart: {rollout.reason}", 1)
        else:
            yield {**done(f"restarted {rollout.total} workers, lost={rollout.lost}", 0), "lost": rollout.lost}

    async def reload(self, body: Line) -> AsyncIterator[Line]:
        """Read the configuration again and use it, or nothing has changed.

        The watch on the files may see the same change a moment later: then its revision is the answer.
        """
        revision = self._upkeep.reload()
        node = self._shell.node
        async for line in self._follow(lambda: node.reloading is not None and node.reloading.target >= revision):
            yield line
        result = node.last_reload
        if result and result.revision >= revision and result.ok:
            yield {**done(f"revision {result.revision} is in use", 0), "revision": result.revision}
        else:
            reason = result.reason if result else "it was forgotten"
            yield done(f"cannot reload: {reason}", 1)

    async def upgrade(self, body: Line) -> AsyncIterator[Line]:
        """Become the installation that is on disk now. How it goes on is in the status of the new supervisor."""
        version = await self._upkeep.upgrade()
        text = f"upgrading from {__version__} to {version}: the new supervisor adopts the workers and restarts them"
        yield {**done(text, 0), "from": __version__, "to": version}

    async def abort(self, body: Line) -> AsyncIterator[Line]:
        """Close old connections, and say how many they were."""
        only(body, "age_s")
        shell = self._shell
        shell.happen(AbortOld(number(body, "age_s", None)))
        yield {"text": "workers close old connections"}
        end_s = shell.clock() + _ABORT_S
        while shell.node.aborting and shell.clock() < end_s:
            await shell.wait_for_change(0.5)
        closed, lost = (sum(getattr(a, name) for a in shell.node.aborted) for name in ("connections", "requests"))
        words = f"closed {many(closed, 'connection')}, on which {many(lost, 'request')} ran"
        facts = {"connections": closed, "lost": lost}
        if shell.node.aborting:
            yield {**done(f"{words}; {many(len(shell.node.aborting), 'worker')} did not answer", 4), **facts}
        else:
            yield {**done(words, 0), **facts}

    async def scale(self, body: Line) -> AsyncIterator[Line]:
        """Have more or fewer workers."""
        only(body, "workers")
        node = self._shell.node
        self._shell.happen(Scale(whole(body, "workers")))

        def settled() -> bool:
            return all(v.serving and not v.leaving for v in node.workers.values()) and len(node.workers) == node.target

        async for line in self._follow(lambda: not settled()):
            yield line
        yield done(f"{node.target} workers", 0)

    async def stop(self, body: Line) -> AsyncIterator[Line]:
        """Stop the node, and say so when it has: no worker, no socket, no program and no lock is left then.

        Asked again while it stops, it attaches; with `fast` it hurries.
        """
        only(body, "fast")
        fast, shell = flag(body, "fast"), self._shell
        if shell.successor:
            raise CannotDo("cannot stop: an upgrade is under way; the new supervisor takes this in a moment")
        shell.stopped_for_good = True
        shell.happen(StopNode(fast))
        yield {"text": "stopping at once" if fast else "stopping: connections drain first"}
        with self._hearing() as said:
            told_s = shell.clock()
            while not shell.closed:
                await shell.wait_for_change(1.0)
                while not said.empty():
                    yield said.get_nowait()
                    told_s = shell.clock()
                if shell.clock() - told_s >= _STILL_HERE_S and not shell.closed:
                    told_s = shell.clock()
                    workers = shell.node.workers.values()
                    left = sum(v.heartbeat.connections for v in workers if v.heartbeat)
                    yield {"text": f"{many(len(workers), 'worker')} left, {many(left, 'connection')}"}
        yield done("stopped", 0)

    async def _follow(self, under_way: Callable[[], bool]) -> AsyncIterator[Line]:
        """Yield what the node says, until it is over (or the node stops)."""
        with self._hearing() as said:
            yield {"text": "under way"}
            while under_way() and self._shell.node.state is not NodeState.STOPPING:
                await self._shell.wait_for_change(1.0)
                while not said.empty():
                    yield said.get_nowait()

    @contextmanager
    def _hearing(self) -> Iterator[asyncio.Queue[Line]]:
        """Collect what the node says."""
        said: asyncio.Queue[Line] = asyncio.Queue()

        def listener(level: str, text: str) -> None:
            if said.qsize() < 1000:
                said.put_nowait({"text": text, "level": level})

        self._shell.listeners.append(listener)
        try:
            yield said
        finally:
            self._shell.listeners.remove(listener)
