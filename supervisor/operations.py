"""What an operator can have done, as steps that tell of themselves: each yields lines until it is over.

The first line comes when the node has agreed; before it, a refusal is a `CannotDo` and nonsense in the request a
`Nonsense`. The last line has `ok` and an exit code (0 done, 1 failed, 4 time is up). Nothing is undone when nobody
listens any more: an operation belongs to the node, not to who asked for it. admin.py brings this to HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from supervisor import words as w
from supervisor.lifecycle import NodeState
from supervisor.shell import Shell
from supervisor.upkeep import Upkeep
from velocity_edge import __version__
from velocity_edge.errors import CannotDo

Line = dict[str, Any]

_SPREAD_S: Final = w.Quiesce().spread_s
_DEADLINE_S: Final = w.Quiesce().deadline_s


class Nonsense(Exception):
    """A request that means nothing: the text names the field and what would be right."""


class Operations:
    """The operations of one node."""

    def __init__(self, shell: Shell, upkeep: Upkeep) -> None:
        self._shell = shell
        self._upkeep = upkeep

    async def quiesce(self, body: Line) -> AsyncIterator[Line]:
        """Take leave of clients; with `wait`, until few enough connections are left."""
        try:
            mode = w.QuiesceMode(body.get("mode", "graceful"))
        except ValueError:
            raise Nonsense(f"mode {body['mode']!r}: graceful, immediate or discourage would be right") from None
        wish = w.Quiesce(
            mode,
            _text(body, "reason"),
            announce_s=_number(body, "announce_s", 0.0),
            spread_s=_number(body, "spread_s", _SPREAD_S),
            deadline_s=_number(body, "deadline_s", _DEADLINE_S),
        )
        already = self._shell.node.quiesced is not None
        self._shell.happen(wish)
        yield {"text": "already quiescing" if already else f"quiescing ({mode})"}
        if body.get("wait"):
            async for line in self._left(_number(body, "below", 0), _number(body, "timeout_s", 600.0)):
                yield line
        else:
            yield _done("quiescing", 0)

    async def drain(self, body: Line) -> AsyncIterator[Line]:
        """Quiesce with the disable file that ExaBGP and anycast-healthchecker look for, and wait."""
        disable = self._shell.places.runtime / "disabled"
        deadline_s = _number(body, "timeout_s", 600.0)
        self._shell.happen(
            w.Quiesce(
                reason=_text(body, "reason"),
                announce_s=_number(body, "announce_s", 0.0),
                spread_s=_number(body, "spread_s", _SPREAD_S),
                deadline_s=deadline_s,
            )
        )
        disable.write_text(f"{_text(body, 'reason') or 'drain'}\n")
        yield {"text": f"disabled: {disable} written, /readyz fails"}
        async for line in self._left(_number(body, "below", 0), deadline_s + 10.0):
            yield line

    async def _left(self, below: float, timeout_s: float) -> AsyncIterator[Line]:
        """Follow a quiesce until few enough connections are left."""
        shell, end_s, said = self._shell, self._shell.clock() + timeout_s, -1
        while True:
            # Heartbeats are a second old; what the node concluded from Drained is not.
            left = sum(v.heartbeat.connections for v in shell.node.workers.values() if v.heartbeat)
            lost = sum(v.lost for v in shell.node.workers.values())
            if shell.node.state is NodeState.QUIESCED or (left <= below and not shell.node.accepts):
                yield {**_done(f"drained, lost={lost}", 0), "connections": left, "lost": lost}
                return
            if shell.node.quiesced is None:
                yield _done("somebody has resumed the node", 1)
                return
            if shell.node.state in (NodeState.STOPPING, NodeState.STOPPED):
                yield _done("the node stops", 1)
                return
            if shell.clock() >= end_s:
                text = (
                    f"{left} connections are left after {timeout_s:g} s; `velocity-edge admin abort --age 0s` ends them"
                )
                yield {**_done(text, 4), "connections": left}
                return
            if left != said:
                yield {"text": f"{left} connections left", "connections": left}
                said = left
            await shell.wait_for_change(1.0)

    async def resume(self, body: Line) -> AsyncIterator[Line]:
        """Serve again."""
        self._shell.happen(w.Resume())
        (self._shell.places.runtime / "disabled").unlink(missing_ok=True)
        yield _done("serving", 0)

    async def restart(self, body: Line) -> AsyncIterator[Line]:
        """Restart workers, one after the other."""
        cores: tuple[int, ...] | None = None
        if (worker_id := body.get("worker_id")) is not None:
            worker = self._shell.node.workers.get(worker_id)
            if worker is None:
                raise CannotDo(f"cannot restart worker {worker_id}: there is none of that number")
            cores = (worker.core,)
        elif (core := body.get("core")) is not None:
            cores = (int(core),)
        self._shell.happen(w.Restart(cores))
        rollout = self._shell.node.rollout
        assert rollout is not None
        async for line in self._follow(lambda: rollout.running):
            yield line
        if rollout.reason:
            yield _done(f"cannot restart: {rollout.reason}", 1)
        else:
            yield {**_done(f"restarted {rollout.total} workers, lost={rollout.lost}", 0), "lost": rollout.lost}

    async def reload(self, body: Line) -> AsyncIterator[Line]:
        """Read the configuration again and use it, or nothing has changed."""
        revision = self._upkeep.reload()
        node = self._shell.node
        async for line in self._follow(lambda: node.reloading is not None and node.reloading.target == revision):
            yield line
        result = node.last_reload
        if result and result.revision == revision and result.ok:
            yield {**_done(f"revision {revision} is in use", 0), "revision": revision}
        else:
            reason = result.reason if result and result.revision == revision else "another reload came in between"
            yield _done(f"cannot reload: {reason}", 1)

    async def upgrade(self, body: Line) -> AsyncIterator[Line]:
        """Become the installation that is on disk now. How it goes on is in the status of the new supervisor."""
        version = await self._upkeep.upgrade()
        text = f"upgrading from {__version__} to {version}: the new supervisor adopts the workers and restarts them"
        yield {**_done(text, 0), "from": __version__, "to": version}

    async def abort(self, body: Line) -> AsyncIterator[Line]:
        """Close old connections."""
        self._shell.happen(w.AbortOld(_number(body, "age_s", None)))
        yield _done("workers close old connections", 0)

    async def scale(self, body: Line) -> AsyncIterator[Line]:
        """Have more or fewer workers."""
        node = self._shell.node
        self._shell.happen(w.Scale(int(_number(body, "workers", None))))

        def settled() -> bool:
            return all(v.serving and not v.leaving for v in node.workers.values()) and len(node.workers) == node.target

        async for line in self._follow(lambda: not settled()):
            yield line
        yield _done(f"{node.target} workers", 0)

    async def rotate_keys(self, body: Line) -> AsyncIterator[Line]:
        """Begin a new epoch."""
        self._upkeep.rotate_keys()
        node = self._shell.node
        async for line in self._follow(lambda: node.key_change is not None):
            yield line
        yield _done(f"epoch {node.seal_with} seals", 0)

    async def stop(self, body: Line) -> AsyncIterator[Line]:
        """Stop the node."""
        fast = body.get("fast", False) is True
        self._shell.happen(w.StopNode(fast))
        yield _done("stopping at once" if fast else "stopping: connections drain first", 0)

    async def _follow(self, under_way: Callable[[], bool]) -> AsyncIterator[Line]:
        """Yield what the node says, until it is over (or the node stops)."""
        said: asyncio.Queue[Line] = asyncio.Queue()

        def listener(level: str, text: str) -> None:
            if said.qsize() < 1000:
                said.put_nowait({"text": text, "level": level})

        self._shell.listeners.append(listener)
        try:
            yield {"text": "under way"}
            while under_way() and self._shell.node.state is not NodeState.STOPPING:
                await self._shell.wait_for_change(1.0)
                while not said.empty():
                    yield said.get_nowait()
        finally:
            self._shell.listeners.remove(listener)


def _number(body: Line, name: str, default: float | None) -> float:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise Nonsense(f"{name} {value!r}: a number, 0 or more, would be right")
    return float(value)


def _text(body: Line, name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or len(value) > 500:
        raise Nonsense(f"{name}: up to 500 characters would be right")
    return value


def _done(text: str, exit_code: int) -> Line:
    return {"ok": exit_code == 0, "text": text, "exit_code": exit_code}
