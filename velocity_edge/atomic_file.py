"""Replaces files atomically: a reader, or a crash, leaves the old content or the new one. Reads regular files only."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file. Raises `OSError`, also for another kind, or more than *max_bytes*.

    Reading a FIFO in place of the file would block for ever, a device would never end.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        with open(fd, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(fd)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"Larger than {max_bytes} bytes")
    return content


def replace_file(path: Path, content: bytes, mode: int, *, folder_mode: int | None = None, sync: bool = True) -> None:
    """Write *content* to a temporary file, sync it, rename it to *path*, sync the directory. Raises `OSError`.

    The file has exactly *mode* from its first byte on, whatever the umask and whatever a crash left behind. With
    *folder_mode* a missing folder is made again. Without *sync* the content survives a crash of the program, not one of
    the machine.
    """
    try:
        _replace(path, content, mode, sync=sync)
    except FileNotFoundError:
        if folder_mode is None:
            raise
        path.parent.mkdir(mode=folder_mode, parents=True, exist_ok=True)
        _replace(path, content, mode, sync=sync)


def _replace(path: Path, content: bytes, mode: int, *, sync: bool) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            if sync:
                os.fsync(fd)
        aside.replace(path)
    except BaseException:
        # The same fault of the disk may make this fail, too; the first error is the one to raise.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    if not sync:
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
