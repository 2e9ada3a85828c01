"""Where the epoch table of a node comes from and is stored.

`FileKeySource` (file.py) is a file on this machine, `tickets.storage`. A source that the nodes of a fleet share (etcd,
Redis, a KMS) is another implementation; the supervisor's keyring (supervisor/machine/keyring.py) knows only the
protocol, and decides when the table changes, what a missing or damaged one means, and when a failed `store` is tried
again.

A file has one writer, the node. A shared source will also have to report that another node has stored a table; the
method for that comes with the first such source.
"""

from __future__ import annotations

from typing import Protocol

from velocity_edge.keys.table import EpochTable


class KeySource(Protocol):
    """Stores one epoch table.

    Short of a crash of the machine, `load` returns what the last successful `store` was given. Calls block, and are
    bounded by the source.
    """

    @property
    def name(self) -> str:
        """The source for people, as errors and `status` show it: the path of the file."""

    def load(self) -> EpochTable | None:
        """Return the stored table, or None when nothing is stored.

        Raises `document.DamagedKeys` when the content is not a table, `ConfigError` when it cannot be read or trusted.
        """

    def store(self, table: EpochTable) -> None:
        """Replace the stored table as a whole. Raises `ConfigError`; either table may be stored then."""

    def set_aside(self) -> str:
        """Keep the stored content, which is damaged, under another name; return that name, "" when nothing is stored.

        Raises `ConfigError`.
        """
