"""The epoch table on disk (`tickets.storage`): JSON, mode 0600, replaced as a whole, never half written.

    {"version": 1, "seal_with": 7, "epochs": [{"epoch": 7, "created_s": 1790000000.0, "root": "<base64>"}, ...],
     "cid_epochs": [7, 6], "closed": [], "announced": 0}

The second line may be missing (files of the first version, which does not read it either); keys.py has what it means.

A field that we do not know is ignored, and left out when the table is stored again; `version` changes only when the
meaning of a field does, and then an older node refuses to start instead of losing keys
(docs/adr/0007-versions-side-by-side.md).

Whoever reads this file can impersonate resets and open tickets, so a file that others can read is refused. A file that
is missing is a fresh start and said to be one; a file that is damaged is an error, unless a fresh start was asked for:
then it is kept aside. What the table means is keys.py's.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, Final

from velocity_edge.atomic_file import replace_file
from velocity_edge.errors import ConfigError
from velocity_edge.keys.table import EpochTable
from velocity_edge.wire.messages import Epoch

VERSION: Final = 1
_MAX_FILE_BYTES: Final = 65_536


class DamagedKeys(ConfigError):
    """What is in the file is no table. (A file that cannot be opened, or that others can read, is another thing.)"""


def dump(table: EpochTable) -> bytes:
    """Return the file's content."""
    return json.dumps(document(table), indent=1).encode("ascii") + b"\n"


def document(table: EpochTable) -> dict[str, Any]:
    """Return the file's content as JSON types."""
    return {
        "version": VERSION,
        "seal_with": table.seal_with,
        "epochs": [
            {"epoch": e.epoch, "created_s": e.created_s, "root": base64.b64encode(e.root).decode("ascii")}
            for e in table.epochs
        ],
        "cid_epochs": list(table.cid_live),
        "closed": list(table.closed),
        "announced": table.announced,
    }


def parse(content: bytes, where: str) -> EpochTable:
    """Return the table in a file's content, or raise `DamagedKeys` that begins with *where* and quotes no key."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise DamagedKeys(f"{where}: cannot read the keys: not JSON") from None
    return table_in(found, where)


def table_in(found: Any, where: str) -> EpochTable:
    """Return the table in a document; as `parse`."""
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise DamagedKeys(f"{where}: cannot read the keys: version {VERSION} would be right")
    try:
        announced = found.get("announced")
        return EpochTable(
            tuple(_epoch(row) for row in found["epochs"]),
            int(found["seal_with"]),
            tuple(map(int, found.get("cid_epochs", ()))),
            tuple(map(int, found.get("closed", ()))),
            None if announced is None else int(announced),
        )
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        # Our own ValueErrors name numbers of epochs and bytes, others might quote the input.
        reason = str(error) if type(error) is ValueError else f"a field is missing or wrong ({type(error).__name__})"
        raise DamagedKeys(f"{where}: cannot read the keys: {reason}") from None


def _epoch(row: Any) -> Epoch:
    root = base64.b64decode(row["root"], validate=True)
    created_s = float(row["created_s"])
    if not math.isfinite(created_s):
        raise ValueError(f"epoch {int(row['epoch'])} was made at no time")
    return Epoch(epoch=int(row["epoch"]), created_s=created_s, root=root)


def load(path: Path) -> EpochTable | None:
    """Return the stored table, or None when there is no file. Raises `ConfigError` when it cannot be used."""
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
            raise ConfigError(f"{path}: cannot trust keys that others can read (mode {mode & 0o777:04o}): chmod 600 it")
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise DamagedKeys(f"{path}: cannot read the keys: larger than {_MAX_FILE_BYTES} bytes")
    return parse(content, str(path))


def save(path: Path, table: EpochTable) -> None:
    """Replace the file; `ConfigError` when that is not possible."""
    try:
        replace_file(path, dump(table), 0o600, folder_mode=0o700)
    except OSError as error:
        raise ConfigError(f"{path}: cannot store the keys: {error.strerror}") from None


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that a fresh start does not destroy it; return its new name."""
    for number in range(1000):
        kept = path.with_name(f"{path.name}.damaged-{number}")
        if not kept.exists():
            path.rename(kept)
            return kept
    raise ConfigError(f"{path}: cannot set it aside: 1000 damaged files are there already, look at them")
