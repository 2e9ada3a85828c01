"""The steps that operations on the keys are made of: give workers the table, move connections, wait for both.

A step yields lines while it waits. Its last line has an exit code only when the operation is over with it: the time is
up, or (`move`) it was the last step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

from supervisor.admin.drain_lines import many
from supervisor.chores.rotation import Rotation
from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from velocity_edge.admin.answers import Answer, OnEpochs
from velocity_edge.errors import CannotDo
from velocity_edge.exits import Exit

_TIMEOUT_S: Final = 600.0


class Steps:
    """The steps of one node."""

    def __init__(self, shell: Shell, rotation: Rotation) -> None:
        self._shell = shell
        self._rotation = rotation

    def end_s(self, timeout_s: float | None) -> float:
        """Return when an operation with this timeout (None: the default) gives up waiting."""
        return self._shell.clock() + (_TIMEOUT_S if timeout_s is None else timeout_s)

    async def use_table(self, seal_with: int | None = None) -> AsyncIterator[Answer]:
        """Give all workers the table of the keyring, then seal with this epoch (None: the same as before)."""
        self._rotation.use_table(seal_with)
        async for line in self.agree():
            yield line

    async def agree(self) -> AsyncIterator[Answer]:
        """Wait until every worker has acknowledged the keys."""
        node = self._shell.node
        said = -1
        while (change := node.key_change) is not None and node.state is not NodeState.STOPPING:
            if len(change.waiting) != said:
                said = len(change.waiting)
                yield Answer(f"waiting for {many(said, 'worker')} to accept the keys")
            await self._shell.wait_for_change(1.0)
        if node.state is NodeState.STOPPING:
            raise CannotDo("cannot change the keys: the node is stopping")
        yield Answer(f"all workers have the keys, epoch {node.seal_with} seals")

    async def leave(self, epochs: Collection[int], spread_s: float | None, end_s: float) -> AsyncIterator[Answer]:
        """Move connections off *epochs* and wait until their connection IDs need not be decoded any more."""
        live = tuple(epoch for epoch in epochs if epoch in self._shell.node.cid_epochs)
        if not live:
            return
        self._rotation.move(live, self._spread_s(spread_s))
        yield Answer(f"waiting until no client can use a connection ID of {named(live)}")
        async for line in self._wait(live, lambda: not set(live) & set(self._shell.node.cid_epochs), end_s):
            yield line

    async def move(
        self, epochs: tuple[int, ...], spread_s: float | None, end_s: float, text: str
    ) -> AsyncIterator[Answer]:
        """Move connections off *epochs*, wait until none is left, and end the operation with *text*."""
        if epochs:
            self._rotation.move(epochs, self._spread_s(spread_s))
        left = self._left(epochs)
        async for line in self._wait(epochs, lambda: left() == 0, end_s):
            yield line
            if line.exit_code is not None:
                return
        yield Answer(f"{text}; no connection uses an earlier one" if epochs else text, None, Exit.DONE)

    def _left(self, epochs: Collection[int]) -> Callable[[], int | None]:
        """Return how many connections are on *epochs*; None while a worker has not counted since the last change."""
        node = self._shell.node

        def left() -> int | None:
            serving = [worker for worker in node.workers.values() if worker.serving]
            current = all(
                worker.by_config is not None
                and worker.keys_in_use is not None
                and worker.keys_in_use.seal_with == node.seal_with
                for worker in serving
            )
            return self._count(epochs) if current or not epochs else None

        return left

    def _count(self, epochs: Collection[int]) -> int:
        held = self._rotation.connections()
        return sum(held.get(epoch, 0) for epoch in epochs)

    async def _wait(self, epochs: Collection[int], over: Callable[[], bool], end_s: float) -> AsyncIterator[Answer]:
        said = 0
        while not over():
            if self._shell.node.state is NodeState.STOPPING:
                raise CannotDo("cannot wait for connections: the node is stopping")
            left = self._count(epochs)
            if self._shell.clock() >= end_s:
                count = many(left, "connection") if left else "an unknown number of connections"
                text = f"{count} left on {named(epochs)}; they go on until they end: run this again to wait"
                yield Answer(text, OnEpochs(connections=left), Exit.TIMED_OUT)
                return
            if left != said:
                said = left
                yield Answer(f"{many(left, 'connection')} left on {named(epochs)}", OnEpochs(connections=left))
            await self._shell.wait_for_change(1.0)

    def _spread_s(self, spread_s: float | None) -> float:
        return self._shell.active.config.server.drain.spread_s if spread_s is None else spread_s


def named(epochs: Collection[int]) -> str:
    """Return "epoch 3" or "epochs 2, 3"."""
    numbers = ", ".join(map(str, sorted(epochs)))
    return f"epoch {numbers}" if len(epochs) == 1 else f"epochs {numbers}"
