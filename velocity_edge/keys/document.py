"""The epoch table as JSON, the one form in which it is stored and in which it leaves the node.

    {"version": 1, "seal_with": 7, "epochs": [{"epoch": 7, "created_s": 1790000000.0, "root": "<base64>"}, ...],
     "cid_epochs": [7, 6], "closed": [], "announced": 0}

The second line may be missing: documents of the first version do not have it, and that version ignores it. The meaning
of each field is in table.py.

An unknown field is ignored, and left out when the table is stored again. `version` changes only when a field changes
its meaning; an older node then refuses to start instead of losing keys (docs/adr/0007-versions-side-by-side.md).

This file is pure. Errors begin with the place of the document and quote no key.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, Final

from velocity_edge.errors import ConfigError
from velocity_edge.keys.table import EpochTable
from velocity_edge.wire.messages import Epoch

VERSION: Final = 1


class DamagedKeys(ConfigError):
    """The content is not an epoch table. (A source that cannot be read, or is not private, raises `ConfigError`.)"""


def to_document(table: EpochTable) -> dict[str, Any]:
    """Return a table as JSON types."""
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


def from_document(found: Any, where: str) -> EpochTable:
    """Return the table in a document, or raise `DamagedKeys`, whose text begins with *where*."""
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise DamagedKeys(f"{where}: cannot read the keys: expected version {VERSION}")
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
        # A plain ValueError names numbers of epochs and bytes (table.py); its subclasses might quote the input.
        reason = str(error) if type(error) is ValueError else f"a field is missing or wrong ({type(error).__name__})"
        raise DamagedKeys(f"{where}: cannot read the keys: {reason}") from None


def dump(table: EpochTable) -> bytes:
    """Return a table as the content of a file."""
    return json.dumps(to_document(table), indent=1).encode("ascii") + b"\n"


def parse(content: bytes, where: str) -> EpochTable:
    """Return the table in the content of a file; as `from_document`."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise DamagedKeys(f"{where}: cannot read the keys: not JSON") from None
    return from_document(found, where)


def _epoch(row: Any) -> Epoch:
    root = base64.b64decode(row["root"], validate=True)
    created_s = float(row["created_s"])
    if not math.isfinite(created_s):
        raise ValueError(f"the creation time of epoch {int(row['epoch'])} is not finite")
    return Epoch(epoch=int(row["epoch"]), created_s=created_s, root=root)
