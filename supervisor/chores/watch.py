"""Noticing that a configuration, a certificate or the folder of a site has changed on disk.

Looks once a second instead of listening to inotify: a rename, an edit in place, a replaced folder and the symlink swap
of a Kubernetes ConfigMap all change what `stat` says at the end of the path, and there is nothing to lose or overflow.
A change counts when it has been the same for two looks, so that a file that is being written is left alone.

A site's root is opened once per revision and a worker opens files below it, whatever its path means later. So a deploy
that swaps a symlink is a change: the path names another folder. What is in the folder is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

#: Path -> what identifies its content; None for a file that is not there. A folder that is not there is left out.
Signature = dict[Path, tuple[int, ...] | None]


def signature(files: Iterable[Path], folders: Iterable[Path] = ()) -> Signature:
    """Return what identifies the content of *files*, and which folders *folders* are."""
    found: Signature = {}
    for path in folders:
        try:
            s = path.stat()
            found[path] = (s.st_dev, s.st_ino)
        except OSError:
            continue
    for path in files:
        try:
            s = path.stat()
            found[path] = (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns)
        except OSError:
            found[path] = None
    return found


class Watch:
    """What was last seen, and what was last acted on."""

    def __init__(self, first: Signature) -> None:
        self._seen = first
        self._acted_on = dict(first)

    def changed(self, now: Signature) -> bool:
        """Return whether *now* is a change that has settled. Says so once.

        A file that is missing is not a change, nor is a path that is watched for the first time: whoever named it has
        just read it.
        """
        settled = now == self._seen
        self._seen = now
        if not settled or None in now.values():
            return False
        changed = any(self._acted_on.get(path, value) != value for path, value in now.items())
        self._acted_on |= now
        return changed
