"""What an operator can have done to the keys, as steps that tell of themselves: the other half of operations.py.

Each change of the table is stored first and then given to everybody; a step that is cut off can be asked for again and
goes on from where it was. Nothing here breaks a connection: an epoch that opens nothing any more keeps its connection
IDs until the last connection on them has moved or ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection

from supervisor.admin.describe_keys import describe_keys
from supervisor.admin.drain_lines import many
from supervisor.admin.fields import Line, Nonsense, done, flag, number, only, whole
from supervisor.chores.rotation import Rotation
from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from velocity_edge.errors import CannotDo, ConfigError
from velocity_edge.keys import rotation
from velocity_edge.keys.document import from_document, to_document
from velocity_edge.keys.table import CID_CONFIGS, EpochTable
from velocity_edge.status.document import Keys

_TIMEOUT_S = 600.0


class TicketOperations:
    """The operations on the keys of one node."""

    def __init__(self, shell: Shell, rotation: Rotation) -> None:
        self._shell = shell
        self._rotation = rotation

    def rows(self) -> Keys:
        """Return what there is, without a secret."""
        return describe_keys(self._shell)

    # --- the verbs ----------------------------------------------------------------------------------------------------

    async def rotate(self, body: Line) -> AsyncIterator[Line]:
        """Begin a new epoch; with `move`, have connections leave the ids of the earlier ones."""
        only(body, "move", "spread_s", "timeout_s")
        if self._shell.node.key_change is None:
            self._rotation.begin()
        async for line in self._agree():
            yield line
        seals = self._shell.node.seal_with
        if not flag(body, "move"):
            yield done(f"epoch {seals} seals", 0)
            return
        old = tuple(epoch for epoch in self._shell.node.cid_epochs if epoch != seals)
        async for line in self._move(old, body, f"epoch {seals} seals"):
            yield line

    async def expire(self, body: Line) -> AsyncIterator[Line]:
        """Have epochs open nothing any more; a new one first, when the one that seals is among them."""
        only(body, "all", "older_than_s", "epoch", "spread_s", "timeout_s")
        self._rotation.refuse()
        chosen = self._chosen(body)
        end_s = self._shell.clock() + number(body, "timeout_s", _TIMEOUT_S)
        if self._shell.keyring.table.seal_with in chosen:
            async for line in self._make_room(body, end_s):
                yield line
                if "exit_code" in line:
                    return
            self._rotation.begin()
            async for line in self._agree():
                yield line
        self._shell.keyring.close(chosen)
        self._rotation.use_table()
        async for line in self._agree():
            yield line
        named = _named(chosen)
        yield {"text": f"{named} open nothing any more: their sessions and tokens are as good as none"}
        live = tuple(epoch for epoch in self._shell.node.cid_epochs if epoch in chosen)
        async for line in self._move(live, body, f"{named} are expired", end_s):
            yield line

    async def export(self, body: Line) -> AsyncIterator[Line]:
        """Hand out the whole table. Whoever has it can open every session of this node and speak for it."""
        only(body)
        table = self._shell.keyring.table
        yield {**done(f"exported {_named(table.numbers)}", 0), "document": to_document(table)}

    async def merge(self, body: Line) -> AsyncIterator[Line]:
        """Open what another node, or this one before, sealed; with `replace`, go on as that one."""
        only(body, "document", "replace", "timeout_s")
        self._rotation.refuse()
        if self._shell.keyring.table.announced:
            # An earlier supervisor began a rotation.
            self._rotation.begin()
            async for line in self._agree():
                yield line
        imported = from_document(body.get("document"), "document")
        if flag(body, "replace"):
            async for line in self._replace(imported, body):
                yield line
            return
        table = self._shell.keyring.table
        if clash := rotation.collisions(table, imported.epochs):
            raise CannotDo(
                f"cannot import: {_named(clash)} here and in the file are not the same keys; "
                "`tickets import --replace` makes those of the file this node's own"
            )
        fresh = [epoch.epoch for epoch in imported.epochs if epoch.epoch not in table.numbers]
        if not fresh:
            yield done("they are all here already", 0)
            return
        self._shell.keyring.merge(imported.epochs, self._shell.steady_clock())
        self._rotation.use_table()
        async for line in self._agree():
            yield line
        yield done(f"{_named(fresh)} open here too; epoch {self._shell.node.seal_with} seals as before", 0)

    # --- replacing ----------------------------------------------------------------------------------------------------

    async def _replace(self, imported: EpochTable, body: Line) -> AsyncIterator[Line]:
        """Make the imported table this node's own.

        A number cannot stand for two keys, so what is in its way leaves first, over a bridge: an epoch of our own whose
        number and whose connection IDs collide with nothing. Then the imported ones are accepted everywhere, then the
        imported one seals, and what is ours alone opens nothing any more.
        """
        shell, keyring = self._shell, self._shell.keyring
        end_s = shell.clock() + number(body, "timeout_s", _TIMEOUT_S)
        target, seals = imported.seal_with, keyring.table.seal_with
        clash = set(rotation.collisions(keyring.table, imported.epochs))
        if seals in clash or (seals != target and seals % CID_CONFIGS == target % CID_CONFIGS):
            bridge = rotation.bridge(keyring.table, imported)
            yield {"text": f"epoch {bridge} seals meanwhile: {_named([seals])} is in the way"}
            self._rotation.begin(bridge)
            async for line in self._agree():
                yield line
        in_place = [
            epoch
            for epoch in shell.node.cid_epochs
            if epoch in clash or (epoch != target and epoch % CID_CONFIGS == target % CID_CONFIGS)
        ]
        if clash:
            keyring.close(clash)
            self._rotation.use_table()
            async for line in self._agree():
                yield line
        async for line in self._leave(in_place, body, end_s):
            yield line
            if "exit_code" in line:
                return
        keyring.merge(imported.epochs, shell.steady_clock())
        self._rotation.use_table()
        async for line in self._agree():
            yield line
        if shell.node.seal_with != target:
            keyring.adopt(target)
            self._rotation.use_table(target)
            async for line in self._agree():
                yield line
        ours = set(keyring.epochs) - set(imported.numbers)
        keyring.close({*ours, *imported.closed})
        self._rotation.use_table()
        async for line in self._agree():
            yield line
        yield done(f"epoch {target} of the file seals, {_named(imported.numbers)} open", 0)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _chosen(self, body: Line) -> tuple[int, ...]:
        """Return the epochs that an `expire` is about. Raises `Nonsense`, `CannotDo`."""
        table = self._shell.keyring.table
        if [flag(body, "all"), "older_than_s" in body, "epoch" in body].count(True) != 1:
            raise Nonsense("which epochs: one of all, older_than_s and epoch would be right")
        if flag(body, "all"):
            return table.numbers
        if "epoch" in body:
            wanted = whole(body, "epoch")
            if wanted not in table.numbers:
                raise CannotDo(f"cannot expire epoch {wanted}: there are {_named(table.numbers)}")
            return (wanted,)
        before_s = self._shell.steady_clock() - number(body, "older_than_s", None)
        chosen = tuple(epoch.epoch for epoch in table.epochs if epoch.created_s < before_s)
        if not chosen:
            raise CannotDo("cannot expire anything: no epoch is that old")
        return chosen

    async def _make_room(self, body: Line, end_s: float) -> AsyncIterator[Line]:
        """See to it that a rotation can begin."""
        blocking = rotation.blocking(self._shell.keyring.table)
        if blocking is not None and not self._shell.keyring.table.announced:
            async for line in self._leave([blocking], body, end_s):
                yield line

    async def _leave(self, epochs: Collection[int], body: Line, end_s: float) -> AsyncIterator[Line]:
        """Move connections off these epochs and wait until their ids need not decode any more."""
        live = tuple(epoch for epoch in epochs if epoch in self._shell.node.cid_epochs)
        if not live:
            return
        self._rotation.move(live, number(body, "spread_s", self._spread_s))
        yield {"text": f"waiting until nobody can hold a connection ID of {_named(live)}"}
        async for line in self._wait(live, lambda: not set(live) & set(self._shell.node.cid_epochs), end_s):
            yield line

    async def _move(
        self, epochs: tuple[int, ...], body: Line, text: str, end_s: float | None = None
    ) -> AsyncIterator[Line]:
        """Move connections off these epochs, wait until none is left, and say *text*."""
        if end_s is None:
            end_s = self._shell.clock() + number(body, "timeout_s", _TIMEOUT_S)
        if epochs:
            self._rotation.move(epochs, number(body, "spread_s", self._spread_s))
        left = self._left(epochs)
        async for line in self._wait(epochs, lambda: left() == 0, end_s):
            yield line
            if "exit_code" in line:
                return
        yield done(f"{text}; no connection lives on an earlier one" if epochs else text, 0)

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

    async def _wait(self, epochs: Collection[int], over: Callable[[], bool], end_s: float) -> AsyncIterator[Line]:
        said = 0
        while not over():
            if self._shell.node.state is NodeState.STOPPING:
                raise CannotDo("cannot wait for connections: the node stops")
            left = self._count(epochs)
            if self._shell.clock() >= end_s:
                count = many(left, "connection") if left else "perhaps connections are"
                text = f"{count} left on {_named(epochs)}; they go on until they end: ask again to wait"
                yield {**done(text, 4), "connections": left}
                return
            if left != said:
                said = left
                yield {"text": f"{many(left, 'connection')} left on {_named(epochs)}", "connections": left}
            await self._shell.wait_for_change(1.0)

    async def _agree(self) -> AsyncIterator[Line]:
        """Follow until every worker has acknowledged the keys."""
        node = self._shell.node
        said = -1
        while (change := node.key_change) is not None and node.state is not NodeState.STOPPING:
            if len(change.waiting) != said:
                said = len(change.waiting)
                yield {"text": f"{many(said, 'worker')} asked to accept the keys"}
            await self._shell.wait_for_change(1.0)
        if node.state is NodeState.STOPPING:
            raise CannotDo("cannot change the keys: the node stops")
        yield {"text": f"everybody has the keys, epoch {node.seal_with} seals"}

    @property
    def _spread_s(self) -> float:
        return self._shell.active.config.server.drain.spread_s


def told(work: Callable[[Line], AsyncIterator[Line]]) -> Callable[[Line], AsyncIterator[Line]]:
    """Return *work* with a refusal that comes on the way (a step of several) as its last line."""

    async def lines(body: Line) -> AsyncIterator[Line]:
        begun = False
        try:
            async for line in work(body):
                begun = True
                yield line
        except (CannotDo, ConfigError) as error:
            if not begun:
                raise
            yield done(str(error), 5)
        except Nonsense as error:
            if not begun:
                raise
            yield done(f"cannot understand {error}", 5)

    return lines


def _named(epochs: Collection[int]) -> str:
    numbers = ", ".join(map(str, sorted(epochs)))
    return f"epoch {numbers}" if len(epochs) == 1 else f"epochs {numbers}"
