"""Notifications to a service manager, and the descriptors that it stores (sd_notify(3)). No-ops without NOTIFY_SOCKET.

The protocol is one datagram of NAME=value lines to a Unix socket, whose name may be abstract; descriptors travel along.
The manager's copies of them outlive this process: the next one receives them as LISTEN_FDS (sd_listen_fds(3)). What is
stored under which name is decided in supervisor/succession/fd_store.py.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

#: The first descriptor that a service manager passes (SD_LISTEN_FDS_START).
_FIRST_FD: Final = 3
#: A manager that has not read after this time does not read at all.
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """The address for notifications, and the interval of the watchdog (seconds; None: no watchdog)."""

    address: str
    watchdog_s: float | None
    #: The most descriptors that it stores, as systemd 254 and later report it; None: unknown.
    store_size: int | None = None

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> ServiceManager:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and FDSTORE."""
        watchdog_us = environment.get("WATCHDOG_USEC", "")
        for_us = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() and for_us else None
        size = environment.get("FDSTORE", "")
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s, int(size) if size.isdigit() else None)

    def ready(self, status: str) -> None:
        """Report that the node serves, or that a reload has ended. MAINPID: adoption may have changed the process."""
        self._notify("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """Report that a reload has begun; `ready` must follow. systemd wants its time (Type=notify-reload)."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Report that the node stops."""
        self._notify("STOPPING=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._notify(f"STATUS={text}")

    def alive(self) -> None:
        """Answer the watchdog: the event loop runs."""
        self._notify("WATCHDOG=1")

    def watchdog_within(self, patience_s: float) -> None:
        """Set the watchdog interval to this, for the next answer and all after it."""
        if self.watchdog_s is not None:
            self._notify("WATCHDOG=1", f"WATCHDOG_USEC={int(patience_s * 1e6)}")

    def store(self, name: str, fd: int) -> bool:
        """Ask the manager to store a copy of *fd*; return whether the message was sent, not whether it is stored.

        A descriptor that is stored already, under any name, is not stored twice. FDPOLL=0: a socket stays stored, even
        when it has a pending ICMP error.
        """
        return self._notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=[fd])

    def remove(self, name: str) -> None:
        """Ask the manager to close all descriptors stored under *name*."""
        self._notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def wait(self, patience_s: float = _PATIENCE_S) -> bool:
        """Wait until all messages so far have been handled (sd_notify_barrier(3)); return whether they were.

        A manager other than systemd may not know barriers: then this waits for the whole time.
        """
        if not self.address:
            return True
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self._notify("BARRIER=1", descriptors=[theirs])
            os.close(theirs)
            theirs = -1
            poll = select.poll()
            poll.register(ours, 0)  # POLLHUP is always reported: the manager closes its end
            return bool(poll.poll(patience_s * 1000))
        finally:
            os.close(ours)
            if theirs >= 0:
                os.close(theirs)

    def _notify(self, *lines: str, descriptors: Sequence[int] = ()) -> bool:
        if not self.address:
            return False
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(_PATIENCE_S)
            try:
                if descriptors:
                    sock.connect(name)
                    socket.send_fds(sock, [text.encode()], list(descriptors))
                else:
                    sock.sendto(text.encode(), name)
            except OSError as error:
                log.debug("cannot notify the service manager: %s", error)  # it may have ended
                return False
        return True


def received(environment: MutableMapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """Return (name, descriptor) for each descriptor from the service manager; they belong to the caller.

    The variables are removed: a program that this process executes later (an upgrade) has the same pid, but not the
    descriptors.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    return [(names[index] if index < len(names) else "", fd) for index, fd in enumerate(fds)]
