"""Noticing that a configuration or a certificate on disk has changed.

Looks once a second instead of listening to inotify: a rename, an edit in place, a replaced folder and the symlink swap
of a Kubernetes ConfigMap all change what `stat` says at the end of the path, and there is nothing to lose or overflow.
A change counts when it has been the same for two looks, so that a file that is being written is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Signature = tuple[tuple[int, int, int, int] | None, ...]


def signature(paths: Iterable[Path]) -> Signature:
    """Return what identifies the content of *paths*; None for one that is not there."""
    found: list[tuple[int, int, int, int] | None] = []
    for path in paths:
        try:
            s = path.stat()
            found.append((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


class Watch:
    """What was last seen, and what was last acted on."""

    def __init__(self, first: Signature) -> None:
        self._acted_on = self._seen = first

    def changed(self, now: Signature) -> bool:
        """Return whether *now* is a change that has settled. Says so once. A file that is missing is not a change."""
        settled = now == self._seen
        self._seen = now
        if not settled or now == self._acted_on or None in now:
            return False
        self._acted_on = now
        return True
