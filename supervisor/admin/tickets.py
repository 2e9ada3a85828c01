"""Operations on the keys: rotate, expire, export, import. The rules for all operations are in service.py.

Each change of the epoch table is stored first and then given to all workers (ticket_steps.py). An operation that is cut
off can be asked for again and continues from where it was. None closes a connection: an expired epoch keeps its
connection IDs until the last connection on them has moved or ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from supervisor.admin.ticket_steps import Steps, named
from supervisor.chores.rotation import Rotation
from supervisor.shell import Shell
from velocity_edge.admin import requests
from velocity_edge.admin.answers import Answer, Exported
from velocity_edge.errors import CannotDo
from velocity_edge.exits import Exit
from velocity_edge.keys import rotation
from velocity_edge.keys.document import from_document, to_document
from velocity_edge.keys.table import CID_CONFIGS, EpochTable


class TicketOperations:
    """The operations on the keys of one node."""

    def __init__(self, shell: Shell, rotation: Rotation) -> None:
        self._shell = shell
        self._rotation = rotation
        self._steps = Steps(shell, rotation)

    async def rotate(self, request: requests.RotateKeys) -> AsyncIterator[Answer]:
        """Begin a new epoch; with `move`, have connections leave the connection IDs of earlier ones."""
        if self._shell.node.key_change is None:
            self._rotation.begin()
        async for line in self._steps.agree():
            yield line
        seals = self._shell.node.seal_with
        if not request.move:
            yield Answer(f"epoch {seals} seals", None, Exit.DONE)
            return
        old = tuple(epoch for epoch in self._shell.node.cid_epochs if epoch != seals)
        end_s = self._steps.end_s(request.timeout_s)
        async for line in self._steps.move(old, request.spread_s, end_s, f"epoch {seals} seals"):
            yield line

    async def expire(self, request: requests.ExpireKeys) -> AsyncIterator[Answer]:
        """Stop accepting what epochs sealed; when one of them seals, begin a new one first."""
        self._rotation.refuse()
        chosen = self._chosen(request)
        end_s = self._steps.end_s(request.timeout_s)
        if self._shell.keyring.table.seal_with in chosen:
            async for line in self._make_room(request.spread_s, end_s):
                yield line
                if line.exit_code is not None:
                    return
            self._rotation.begin()
            async for line in self._steps.agree():
                yield line
        self._shell.keyring.close(chosen)
        async for line in self._steps.use_table():
            yield line
        yield Answer(f"{named(chosen)}: sessions and tokens are no longer accepted")
        live = tuple(epoch for epoch in self._shell.node.cid_epochs if epoch in chosen)
        are = "is" if len(chosen) == 1 else "are"
        async for line in self._steps.move(live, request.spread_s, end_s, f"{named(chosen)} {are} expired"):
            yield line

    async def export(self, _: requests.ExportKeys) -> AsyncIterator[Answer]:
        """Return the whole table. Its holder can open every session of this node and impersonate it."""
        table = self._shell.keyring.table
        document = Exported(document=to_document(table))
        yield Answer(f"exported {named(table.numbers)}", document, Exit.DONE)

    async def merge(self, request: requests.ImportKeys) -> AsyncIterator[Answer]:
        """Accept what another node, or this one before, sealed; with `replace`, use its keys in place of the own."""
        self._rotation.refuse()
        if self._shell.keyring.table.announced:
            # An earlier supervisor began a rotation.
            self._rotation.begin()
            async for line in self._steps.agree():
                yield line
        imported = from_document(request.document, "document")
        if request.replace:
            async for line in self._replace(imported, self._steps.end_s(request.timeout_s)):
                yield line
            return
        table = self._shell.keyring.table
        if clash := rotation.collisions(table, imported.epochs):
            raise CannotDo(
                f"cannot import: {named(clash)} of the file and of this node are different keys; "
                "`tickets import --replace` uses those of the file"
            )
        fresh = [epoch.epoch for epoch in imported.epochs if epoch.epoch not in table.numbers]
        if not fresh:
            yield Answer("this node has all of them already", None, Exit.DONE)
            return
        self._shell.keyring.merge(imported.epochs, self._shell.steady_clock())
        async for line in self._steps.use_table():
            yield line
        yield Answer(f"{named(fresh)} imported; epoch {self._shell.node.seal_with} seals as before", None, Exit.DONE)

    async def _replace(self, imported: EpochTable, end_s: float) -> AsyncIterator[Answer]:
        """Use the imported table in place of the node's own.

        A number cannot stand for two keys, so own epochs that collide leave first. If the one that seals collides, a
        bridge seals meanwhile: an own epoch whose number and whose connection IDs collide with nothing. Then all
        workers accept the imported epochs, then the imported one seals, and the remaining own epochs are closed.
        """
        shell, keyring, steps = self._shell, self._shell.keyring, self._steps
        target, seals = imported.seal_with, keyring.table.seal_with
        clash = set(rotation.collisions(keyring.table, imported.epochs))
        if seals in clash or (seals != target and seals % CID_CONFIGS == target % CID_CONFIGS):
            bridge = rotation.bridge(keyring.table, imported)
            yield Answer(f"epoch {bridge} seals meanwhile: {named([seals])} collides with the file")
            self._rotation.begin(bridge)
            async for line in steps.agree():
                yield line
        in_place = [
            epoch
            for epoch in shell.node.cid_epochs
            if epoch in clash or (epoch != target and epoch % CID_CONFIGS == target % CID_CONFIGS)
        ]
        if clash:
            keyring.close(clash)
            async for line in steps.use_table():
                yield line
        async for line in steps.leave(in_place, None, end_s):
            yield line
            if line.exit_code is not None:
                return
        keyring.merge(imported.epochs, shell.steady_clock())
        async for line in steps.use_table():
            yield line
        if shell.node.seal_with != target:
            keyring.adopt(target)
            async for line in steps.use_table(target):
                yield line
        ours = set(keyring.epochs) - set(imported.numbers)
        keyring.close({*ours, *imported.closed})
        async for line in steps.use_table():
            yield line
        yield Answer(f"epoch {target} of the file seals, {named(imported.numbers)} imported", None, Exit.DONE)

    def _chosen(self, request: requests.ExpireKeys) -> tuple[int, ...]:
        """Return the epochs that an `expire` selects. Raises `CannotDo`."""
        table = self._shell.keyring.table
        if request.all:
            return table.numbers
        if request.epoch is not None:
            if request.epoch not in table.numbers:
                raise CannotDo(f"cannot expire epoch {request.epoch}: this node has {named(table.numbers)}")
            return (request.epoch,)
        assert request.older_than_s is not None  # ExpireKeys.check
        before_s = self._shell.steady_clock() - request.older_than_s
        chosen = tuple(epoch.epoch for epoch in table.epochs if epoch.created_s < before_s)
        if not chosen:
            raise CannotDo("cannot expire anything: no epoch is that old")
        return chosen

    async def _make_room(self, spread_s: float | None, end_s: float) -> AsyncIterator[Answer]:
        """Wait until a rotation can begin."""
        blocking = rotation.blocking(self._shell.keyring.table)
        if blocking is not None and not self._shell.keyring.table.announced:
            async for line in self._steps.leave([blocking], spread_s, end_s):
                yield line
