"""Detects that a configuration, a certificate or the folder of a site has changed on disk.

It polls once a second and does not use inotify: a rename, an edit in place, a replaced folder and the symlink swap of a
Kubernetes ConfigMap all change what `stat` returns for the path, and no queue can overflow. A change counts when two
polls in a row see the same, so that a file that is being written is left alone.

The root of a site is opened once per revision, and workers open files below that descriptor. So a deployment that swaps
a symlink is a change: the path names another folder. The content of the folder is not watched, unless it
has templates (`all_below`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: They are looked at once a second.
MOST_FILES: Final = 1000

#: Path -> what identifies its content; None for a missing file. A missing folder is left out.
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


def all_below(folder: Path) -> list[Path]:
    """Return *folder* and what is below it, at most `MOST_FILES`: a folder changes when a file comes or goes."""
    try:
        return [folder, *itertools.islice(folder.rglob("*"), MOST_FILES)]
    except OSError:
        return [folder]


class Watch:
    """What the last poll saw, and the last change that was reported."""

    def __init__(self, first: Signature) -> None:
        self._seen = first
        self._acted_on = dict(first)

    def changed(self, now: Signature) -> bool:
        """Return whether *now* is a change that has settled. Each change is reported once.

        A missing file is not a change, nor is a path that is watched for the first time: the revision that named it
        has just read it.
        """
        settled = now == self._seen
        self._seen = now
        if not settled or None in now.values():
            return False
        changed = any(self._acted_on.get(path, value) != value for path, value in now.items())
        self._acted_on |= now
        return changed
