"""The audit log: one JSON object per line for each change that was asked for, in the state directory.

It has who asked, what, and how it ended; for an operation that lasts, also that it has begun. Keys are left out. When
the file is full, one old file is kept. A file that cannot be written delays nothing: the log has the same lines.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supervisor.machine.kept import Trouble

log = logging.getLogger("supervisor")

_MAX_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of the socket, as the kernel reports it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Audit:
    """The audit log of one node."""

    def __init__(self, state: Path, troubles: dict[str, Trouble]) -> None:
        """*state*: the state directory. `status` shows *troubles*."""
        self._file = state / "audit.log"
        self._trouble = troubles.setdefault("audit", Trouble("requests of operators are in the log only"))

    def record(
        self, caller: Caller, path: str, body: Mapping[str, Any], outcome: str, secret: frozenset[str] = frozenset()
    ) -> None:
        """Add a line. *secret*: fields of *body* that must not be written."""
        file = self._file
        record = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "uid": caller.uid,
            "pid": caller.pid,
            "request": path,
            "body": {name: "(not logged)" if name in secret else value for name, value in body.items()},
            "outcome": outcome,
        }
        log.info("%s by user %d: %s", path, caller.uid, outcome)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab") as stream:
                stream.write(json.dumps(record).encode() + b"\n")
                full = stream.tell() > _MAX_BYTES
            if full:
                file.replace(file.with_suffix(".log.1"))
        except OSError as error:
            self._trouble.begins(f"cannot write {file}: {error.strerror}")
        else:
            self._trouble.ends(f"write {file}")
