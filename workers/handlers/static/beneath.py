"""Opens a file below a directory, and nowhere else: openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS).

The kernel refuses a path that leaves the root by symbolic links, `..` or a concurrent rename; links that stay inside
work. Python has no openat2, hence ctypes. Linux has it since 5.6; where it is missing or a seccomp filter forbids it,
`probe` raises, and no site is served from files: no other way is equally safe.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import ClassVar, Final

from velocity_edge.errors import Unavailable

#: The same number on every architecture, as for all system calls since the tables were unified.
_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
#: O_NONBLOCK: opening a FIFO must not wait for a writer.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
#: The kernel returns EAGAIN when a rename or mount interfered with ".."; the call must be repeated.
_ATTEMPTS: Final = 8


class Descriptor:
    """An open descriptor; closed when the last reference is dropped. Also a `requests.OpenFile`: the engine has a
    reference while it reads.
    """

    __slots__ = ("fd",)
    #: Number of instances in this process (open_files.py bounds them).
    alive: ClassVar[int] = 0

    def __init__(self, fd: int) -> None:
        self.fd = fd
        Descriptor.alive += 1

    def __del__(self) -> None:
        Descriptor.alive -= 1
        os.close(self.fd)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_HOW = _OpenHow(_FLAGS, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
_HOW_POINTER = ctypes.addressof(_HOW)
_HOW_SIZE = ctypes.sizeof(_HOW)


def open_beneath(root_fd: int, path: bytes) -> int:
    """Return a descriptor for *path* (relative; b"" is the root itself) below *root_fd*. Raises OSError.

    Leaving the root is EXDEV. The descriptor may be of any type: check fstat before reading.
    """
    for _ in range(_ATTEMPTS):
        fd = int(_syscall(_SYS_OPENAT2, root_fd, path or b".", _HOW_POINTER, _HOW_SIZE))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), path)


def probe(root_fd: int, name: str) -> None:
    """Raise `Unavailable` when files below *root_fd* (in messages: *name*) cannot be opened this way by this user."""
    try:
        os.close(open_beneath(root_fd, b""))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            raise Unavailable(
                f"cannot serve files from {name}: openat2 fails with {error.strerror!r}; "
                "it requires Linux 5.6 and a seccomp filter that permits openat2"
            ) from None
        if error.errno == errno.EACCES:
            raise Unavailable(
                f"cannot serve files from {name}: user id {os.geteuid()} may not read it; "
                "give others (or that user) read and search permission"
            ) from None
        raise
