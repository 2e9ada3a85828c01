"""What every node requires, found by trying: system calls that a seccomp filter or an old kernel may refuse, /proc.

Everything else is optional (tiers, capabilities, CPU affinity). `serve` refuses to start for these reasons, and
`doctor` shows the same ones.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

#: The same number on every architecture (linux/openat2.h).
_OPENAT2: Final = 437
_RESOLVE_BENEATH: Final = 0x08
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def lacking() -> list[str]:
    """Return what is missing, each as a phrase that follows "cannot serve here:"."""
    return list(_tried())


def sentence(lacks: list[str]) -> str:
    """Return the error for what is missing, with the remedy."""
    return f"cannot serve here: {'; '.join(lacks)}; {REMEDY}"


def too_few_descriptors(listeners: int, cores: int, files: int) -> str:
    """Return the error when the limit of open files is too low for all slots of a node; else empty."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = descriptors(listeners, cores, files)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return ""
    return (
        f"cannot open the slots of {cores} cores: they need {needed} descriptors, and the limit is {limit}; "
        "raise it with `ulimit -Hn`, LimitNOFILE= or `--ulimit nofile=`"
    )


def descriptors(listeners: int, cores: int, files: int) -> int:
    """Return the most descriptors that a supervisor holds, with a reserve for requests and logs.

    *files*: the files and directories of a configuration (config/needs.py); a reload has those of two.
    """
    slot = listeners + 4  # its sockets, both ends of a link, a slab and its mapping
    worker = 2  # its channel and its pidfd
    programs = 3 * listeners + 24  # sockets maps and programs of listeners; maps, links, the shield
    return 2 * cores * (slot + worker) + programs + 2 * files + 40


#: The remedy for all of them.
REMEDY: Final = (
    "use Linux 5.15 or later with /proc, and a seccomp filter that permits them (Docker: 20.10.10 or later, or "
    "`--security-opt seccomp=FILE`)"
)


def _tried() -> Iterator[str]:
    attempts: tuple[tuple[str, Callable[[], object]], ...] = (
        ("memfd_create(2) for counters", _memfd),
        ("pidfd_open(2) for watching workers", _pidfd),
        ("openat2(2) for files of sites", _openat2),
        ("starting a thread (clone3(2))", _thread),
        (f"reading {BOOT_ID}", BOOT_ID.read_bytes),
    )
    for what, attempt in attempts:
        try:
            attempt()
        except OSError as error:
            yield f"{what} is refused ({error.strerror})"
        except RuntimeError as error:
            yield f"{what} is refused ({error})"


def _memfd() -> None:
    os.close(os.memfd_create("velocity-probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))


def _pidfd() -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(pidfd, 0)
    finally:
        os.close(pidfd)


def _openat2() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    how = ctypes.create_string_buffer(struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_BENEATH))
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    fd = libc.syscall(ctypes.c_long(_OPENAT2), ctypes.c_int(root), b".", how, ctypes.c_size_t(24))
    number = ctypes.get_errno()
    os.close(root)
    if fd < 0:
        raise OSError(number, os.strerror(number))
    os.close(fd)


def _thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
