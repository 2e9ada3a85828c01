"""The epoch table in a file (`tickets.storage`): mode 0600, replaced as a whole, never half written.

A reader of this file can open tickets and forge stateless resets, so a file that other users can read is refused. A
damaged file can be set aside, so that a fresh start does not destroy it. The format is in document.py; whether a
missing or damaged file ends the start is decided by the supervisor's keyring.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velocity_edge.atomic_file import replace_file
from velocity_edge.errors import ConfigError
from velocity_edge.keys.document import DamagedKeys, dump, parse
from velocity_edge.keys.table import EpochTable

_MAX_FILE_BYTES: Final = 65_536
_MAX_SET_ASIDE: Final = 1000


@dataclass(frozen=True, slots=True)
class FileKeySource:
    """A `KeySource` (source.py) that is a file."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def load(self) -> EpochTable | None:
        """Return the stored table, or None when there is no file. Raises `ConfigError` when it cannot be used."""
        path = self.path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{path}: cannot read the keys: {error.strerror}") from None
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            os.close(fd)
            raise ConfigError(f"{path}: cannot read the keys: not a regular file")
        with open(fd, "rb") as file:
            if mode & 0o077:
                raise ConfigError(
                    f"{path}: cannot trust keys that others can read (mode {mode & 0o777:04o}): chmod 600 it"
                )
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise DamagedKeys(f"{path}: cannot read the keys: larger than {_MAX_FILE_BYTES} bytes")
        return parse(content, str(path))

    def store(self, table: EpochTable) -> None:
        """Replace the file, and make its folder where that is missing. Raises `ConfigError`."""
        try:
            replace_file(self.path, dump(table), 0o600, folder_mode=0o700)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot store the keys: {error.strerror}") from None

    def set_aside(self) -> str:
        """Rename a damaged file so that a fresh start does not destroy it; return its new name, "" when there is none.

        Raises `ConfigError`.
        """
        if not self.path.exists():
            return ""
        for number in range(_MAX_SET_ASIDE):
            kept = self.path.with_name(f"{self.path.name}.damaged-{number}")
            if not kept.exists():
                try:
                    self.path.rename(kept)
                except OSError as error:
                    raise ConfigError(f"{self.path}: cannot set it aside: {error.strerror}") from None
                return str(kept)
        raise ConfigError(
            f"{self.path}: cannot set it aside: {_MAX_SET_ASIDE} damaged files are there already, look at them"
        )
