"""The history of a node's keys: `<state>/key-history.json`, without secrets.

    {"newest": 7, "anew_s": 1790000000.0, "reason": "..."}

When the key file is lost, this file still has the number of the newest epoch, so that new keys start with a number that
the node never used (an old backup can then be imported beside them). It also has the time and the reason of the last
new start, for `status`. Losing this file, too, costs only these two.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from velocity_edge.atomic_file import read_file, replace_file

log = logging.getLogger(__name__)

_NAME: Final = "key-history.json"


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """The file. `newest` is 0 when no node has run before; `anew_s` is None when no keys were lost."""

    newest: int = 0
    anew_s: float | None = None
    reason: str = ""

    @property
    def next_number(self) -> int:
        """The number of the first epoch of a new table."""
        return self.newest + 1

    def began_anew(self, now_s: float, reason: str) -> KeyHistory:
        """Return the history of a node whose keys were lost."""
        return replace(self, anew_s=now_s, reason=reason)

    def reached(self, newest: int) -> KeyHistory:
        """Return the history including this epoch."""
        return replace(self, newest=max(self.newest, newest))


def load(state_directory: Path) -> KeyHistory:
    """Return the stored history; an empty one when there is none, or it cannot be read."""
    try:
        found = json.loads(read_file(state_directory / _NAME, 65_536))
        anew_s = found.get("anew_s")
        newest = int(found["newest"])
        if not 0 <= newest < 0xFFFFFFFF:
            return KeyHistory()
        return KeyHistory(newest, None if anew_s is None else float(anew_s), str(found.get("reason", "")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return KeyHistory()


def save(state_directory: Path, history: KeyHistory) -> None:
    """Store the history. A failure is logged; the node works without it."""
    try:
        content = json.dumps(asdict(history)).encode() + b"\n"
        replace_file(state_directory / _NAME, content, 0o644, folder_mode=0o700)
    except OSError as error:
        log.error("cannot write %s: %s", state_directory / _NAME, error.strerror)
