"""Files that say what is so about a node: written when that changes, tried again until they are, never worth a life.

A disk that is full, read-only or broken, and a folder that somebody removed, cost what the file is for and nothing
else. The trouble is logged when it begins and when it is over, `status` names it as degraded meanwhile, and the shell
calls `retry` once per second (shell.py). What is in a file is decided by whoever keeps it: state.py, remembered.py, the
disable file in shell.py, the keys in keyring.py.
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

#: A disk that hangs costs as long as it hangs: the same content is not tried again before this.
RETRY_S: Final = 1.0


class Trouble:
    """What is wrong with one thing that the node can do without. `text` is empty while nothing is."""

    def __init__(self, cost: str) -> None:
        """*cost*: what it means while it lasts."""
        self._cost = cost
        self.text = ""

    def begins(self, what: str) -> None:
        """Note that *what* ("cannot ...") is so; the first time it is logged."""
        text = f"{what}; {self._cost}, and it is tried again"
        if not self.text:
            log.error("%s", text)
        self.text = text

    def ends(self, what: str) -> None:
        """Note that it is over."""
        if self.text:
            self.text = ""
            log.info("%s: it works again", what)


class KeptFile:
    """One file that has a content, or is not there (None)."""

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
        """*folder_mode*: of the folder, where it has to be made again. *sync*: it should outlive a power failure."""
        self.path = path
        self._mode, self._folder_mode, self._sync, self._clock = mode, folder_mode, sync, clock
        self._trouble = Trouble(cost)
        self._wanted: bytes | None = None
        #: What is there: as far as we know, since a failed attempt may have come to any point; at first we do not.
        self._there: bytes | str | None = "unknown"
        self._inode = 0
        self._tried_s = -math.inf
        self._reason = ""

    @property
    def problem(self) -> str:
        """What is wrong, for `status`; empty when the file says what is so."""
        return self._trouble.text

    @property
    def behind(self) -> bool:
        """Whether the file does not say what is so."""
        return self._there != self._wanted

    def should_be(self, content: bytes | None, *, again: bool = False) -> str:
        """Have the file say *content*, or be gone; return why it does not ("cannot ..."), empty when it does.

        *again*: also when it was so before, since somebody else may have written or removed it.
        """
        if content != self._wanted or again:
            self._wanted, self._tried_s = content, -math.inf
            self._there = "unknown" if again else self._there
        return self.retry()

    def give_up(self) -> None:
        """Want nothing any more: whatever is there may stay."""
        self._wanted = self._there if isinstance(self._there, bytes) else None
        self._there = self._wanted
        self._trouble.text = ""

    def retry(self) -> str:
        """Try again what failed; return as `should_be`."""
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
        """Write it again when it is not the file that we wrote: for what nobody else has to do with."""
        if self._wanted is None or self.behind:
            return
        try:
            same = self.path.stat().st_ino == self._inode
        except OSError:
            same = False
        if not same:
            self.should_be(self._wanted, again=True)
