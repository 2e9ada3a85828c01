"""Changes of an epoch table: rotation, expiry, closing, and the import of another node's epochs.

A rotation takes two steps, so that no worker meets a key that it does not have: *announce* (all open with the epoch,
none seals), and, when every worker has acknowledged it, *switch* (it seals). Old epochs stay until what they sealed has
expired. A rotation waits while the config id of its epoch is in use, and connections are moved off the epochs that
stand in the way (`crowding`).

Every function is pure and returns another table; roots and times come from the caller. When to rotate is configured;
acknowledgements are collected by the supervisor.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import replace

from velocity_edge.keys.table import CID_CONFIGS, MAX_EPOCHS, MIN_EPOCHS, EpochTable
from velocity_edge.wire.messages import Epoch


class Step(enum.Enum):
    """The next step of a rotation."""

    NOTHING = "nothing"
    ANNOUNCE = "announce"
    SWITCH = "switch"


def born_by(table: EpochTable, now_s: float) -> EpochTable:
    """Return the table with no creation time in the future: an epoch made while a clock was ahead counts as made now.

    Otherwise its age would be negative, and the next rotation would wait for that time.
    """
    return replace(table, epochs=tuple(replace(e, created_s=min(e.created_s, now_s)) for e in table.epochs))


def next_number(table: EpochTable) -> int:
    """Return the number of the next epoch, which must not have the config id of the sealing epoch."""
    number = table.epochs[0].epoch + 1
    return number if number % CID_CONFIGS != table.seal_with % CID_CONFIGS else number + 1


def bridge(table: EpochTable, other: EpochTable) -> int:
    """Return a number for an epoch that seals between these tables: in neither, with the config id of no live epoch."""
    live = {n % CID_CONFIGS for n in table.cid_live} | {other.seal_with % CID_CONFIGS}
    number = max(table.numbers[0], other.numbers[0]) + 1
    return next((n for n in range(number, number + CID_CONFIGS) if n % CID_CONFIGS not in live), number)


def blocking(table: EpochTable, number: int | None = None) -> int | None:
    """Return the live epoch whose config id the next one (or *number*) needs; None when it is free."""
    wanted = (next_number(table) if number is None else number) % CID_CONFIGS
    return next((n for n in table.cid_live if n % CID_CONFIGS == wanted and n != number), None)


def crowding(table: EpochTable) -> tuple[int, ...]:
    """Return the live epochs whose config id one of the next two needs: 5 or more behind the newest.

    They are named one rotation early, so that connections can be moved slowly.
    """
    number = next_number(table)
    wanted = {number % CID_CONFIGS, (number + 1) % CID_CONFIGS}
    return tuple(n for n in _leaving(table) if n % CID_CONFIGS in wanted)


def _leaving(table: EpochTable) -> tuple[int, ...]:
    """Return the live epochs that no longer issue connection IDs."""
    return tuple(n for n in table.cid_live if n not in (table.seal_with, table.announced))


def next_step(
    table: EpochTable,
    now_s: float,
    rotate_after_s: float,
    acknowledged: Collection[Collection[int]],
    force: bool = False,
) -> Step:
    """Return what is due. *acknowledged*: for every live worker, the epochs that it has acknowledged."""
    if table.announced:
        return Step.SWITCH if all(table.announced in epochs for epochs in acknowledged) else Step.NOTHING
    due = force or now_s - table.sealing.created_s >= rotate_after_s
    return Step.ANNOUNCE if due else Step.NOTHING


def announce(table: EpochTable, root: bytes, now_s: float, max_age_s: float, number: int | None = None) -> EpochTable:
    """Return the table with a new epoch that opens and does not seal yet, and without expired epochs.

    Raises `ValueError` when its config id is in use: call `blocking` first.
    """
    epoch = Epoch(epoch=next_number(table) if number is None else number, created_s=now_s, root=root)
    old = list(table.epochs)
    while len(old) >= MAX_EPOCHS:
        # The oldest epoch that only opens: what it sealed is refused a little early. (At most 7 are live.)
        old.remove(next(e for e in reversed(old) if e.epoch not in table.cid_live))
    epochs = tuple(sorted((epoch, *old), key=lambda e: -e.epoch))
    closed = tuple(n for n in table.closed if n in {e.epoch for e in epochs})
    grown = EpochTable(epochs, table.seal_with, (epoch.epoch, *table.cid_live), closed, epoch.epoch)
    return expire(grown, now_s, max_age_s)


def adopt(table: EpochTable, number: int) -> EpochTable:
    """Return the table that announces an epoch it has already (an imported one)."""
    return replace(table, cid_live=tuple({number, *table.cid_live}), announced=number)


def switch(table: EpochTable) -> EpochTable:
    """Return the table whose announced epoch seals."""
    return replace(table, seal_with=table.announced or table.seal_with, announced=0)


def stopped_s(table: EpochTable, number: int) -> float | None:
    """Return when an epoch stopped sealing, which is when its successor was made. None: it seals, or never did."""
    if number >= table.seal_with:
        return None
    return min((e.created_s for e in table.epochs if number < e.epoch <= table.seal_with), default=None)


def expire(table: EpochTable, now_s: float, max_age_s: float) -> EpochTable:
    """Return the table without epochs that stopped sealing more than *max_age_s* ago; the newest 4 always stay.

    An epoch stopped sealing when its successor was made, and what it sealed is valid for at most *max_age_s*
    (tickets.max_age). Epochs with live connection IDs stay, and so does the sealing epoch.
    """
    kept: list[Epoch] = []
    for position, epoch in enumerate(table.epochs):
        stopped = table.epochs[position - 1].created_s if position else now_s
        if position < MIN_EPOCHS or epoch.epoch in table.cid_live or now_s - stopped <= max_age_s:
            kept.append(epoch)
    return _of(table, kept)


def close(table: EpochTable, numbers: Collection[int]) -> EpochTable:
    """Return the table in which these epochs no longer open anything, without those that are not needed then.

    The sealing epoch and an announced one are never closed.
    """
    closed = {*table.closed, *(set(numbers) & set(table.numbers))} - {table.seal_with, table.announced or 0}
    return _without_closed(replace(table, closed=tuple(closed)))


def retire(table: EpochTable, numbers: Collection[int]) -> EpochTable:
    """Return the table in which connection IDs of these epochs no longer decode, as no connection holds one."""
    live = {*table.cid_live} - ({*numbers} - {table.seal_with, table.announced or 0})
    return _without_closed(replace(table, cid_live=tuple(live)))


def drop(table: EpochTable, numbers: Collection[int]) -> EpochTable:
    """Return the table without these epochs: none of them may seal, be announced or have live connection IDs."""
    return _of(table, [e for e in table.epochs if e.epoch not in numbers])


def _without_closed(table: EpochTable) -> EpochTable:
    return _of(table, [e for e in table.epochs if e.epoch in table.cid_live or e.epoch not in table.closed])


def _of(table: EpochTable, epochs: Sequence[Epoch]) -> EpochTable:
    numbers = {epoch.epoch for epoch in epochs}
    return replace(table, epochs=tuple(epochs), closed=tuple(n for n in table.closed if n in numbers))


def collisions(table: EpochTable, other: Sequence[Epoch]) -> tuple[int, ...]:
    """Return the numbers that have different roots in the two tables."""
    roots = {epoch.epoch: epoch.root for epoch in table.epochs}
    return tuple(sorted(e.epoch for e in other if roots.get(e.epoch, e.root) != e.root))


def merge(table: EpochTable, imported: Sequence[Epoch]) -> EpochTable:
    """Return the table with the epochs of another node that are not in it yet (`tickets import`).

    They only open: the sealing epoch stays, and their connection IDs do not decode. Raises `ValueError` when there are
    too many; call `collisions` first.
    """
    known = set(table.numbers)
    every = sorted((*table.epochs, *(e for e in imported if e.epoch not in known)), key=lambda e: -e.epoch)
    return replace(table, epochs=tuple(every))
