"""Files that record the state of a node: written when it changes, retried until written; a failure never ends the node.

A disk that is full, read-only or broken, or a folder that was removed, costs only the purpose of the file. The trouble
is logged when it begins and when it ends, `status` reports it as degraded meanwhile, and the shell calls `retry` once
per second. The content is decided elsewhere: supervisor/succession/state_file.py and quiesced_file.py, the disable file
in the shell, the keys in keyring.py.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from velocity_edge.atomic_file import replace_file

log = logging.getLogger("supervisor")

#: The same content is not tried again before this: each attempt on a hanging disk blocks the supervisor.
RETRY_S: Final = 1.0


class Trouble:
    """The trouble with one thing that the node can work without. `text` is empty while there is none."""

    def __init__(self, cost: str) -> None:
        """*cost*: the consequence while the trouble lasts."""
        self._cost = cost
        self.text = ""

    def begins(self, what: str) -> None:
        """Record the trouble *what* ("cannot ..."); log it when it is new."""
        text = f"{what}; {self._cost}; retrying"
        if not self.text:
            log.error("%s", text)
        self.text = text

    def ends(self, what: str) -> None:
        """Record and log that the trouble is over."""
        if self.text:
            self.text = ""
            log.info("%s: works again", what)


class KeptFile:
    """One file with a wanted content, or that should not exist (None)."""

    def __init__(
        self,
        path: Path,
        cost: str,
        *,
        mode: int = 0o600,
        folder_mode: int = 0o700,
        sync: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*folder_mode*: of the folder, when it has to be made again. *sync*: the file must survive a power failure."""
        self.path = path
        self._mode, self._folder_mode, self._sync, self._clock = mode, folder_mode, sync, clock
        self._trouble = Trouble(cost)
        self._wanted: bytes | None = None
        #: The content on disk. "unknown" at first, and after a failed attempt, which may have stopped at any point.
        self._there: bytes | str | None = "unknown"
        self._inode = 0
        self._tried_s = -math.inf
        self._reason = ""

    @property
    def problem(self) -> str:
        """The trouble, for `status`; empty when the file is up to date."""
        return self._trouble.text

    @property
    def behind(self) -> bool:
        """Whether the file is not up to date."""
        return self._there != self._wanted

    def should_be(self, content: bytes | None, *, again: bool = False) -> str:
        """Give the file this content, or remove it; return why that failed ("cannot ..."), empty when it did not.

        *again*: also when it has that content already, as another process may have changed or removed the file.
        """
        if content != self._wanted or again:
            self._wanted, self._tried_s = content, -math.inf
            self._there = "unknown" if again else self._there
        return self.retry()

    def give_up(self) -> None:
        """Stop retrying; the file stays as it is."""
        self._wanted = self._there if isinstance(self._there, bytes) else None
        self._there = self._wanted
        self._trouble.text = ""

    def retry(self) -> str:
        """Retry what failed; return as `should_be`."""
        if not self.behind:
            return ""
        if self._clock() < self._tried_s + RETRY_S:
            return self._reason
        self._tried_s, self._there = self._clock(), "unknown"
        verb = "remove" if self._wanted is None else "write"
        try:
            if self._wanted is None:
                self.path.unlink(missing_ok=True)
            else:
                replace_file(self.path, self._wanted, self._mode, folder_mode=self._folder_mode, sync=self._sync)
                self._inode = self.path.stat().st_ino
        except OSError as error:
            self._reason = f"cannot {verb} {self.path}: {error.strerror or error}"
            self._trouble.begins(self._reason)
            return self._reason
        self._there = self._wanted
        self._trouble.ends(f"{verb} {self.path}")
        return ""

    def restore(self) -> None:
        """Write the file again when it was replaced or removed: for files that no other process may change."""
        if self._wanted is None or self.behind:
            return
        try:
            same = self.path.stat().st_ino == self._inode
        except OSError:
            same = False
        if not same:
            self.should_be(self._wanted, again=True)
