"""What a service manager is told and what it keeps for us (sd_notify(3)). Without NOTIFY_SOCKET, calls do nothing.

No library: the protocol is one datagram of NAME=value lines to a Unix socket whose name may be abstract; descriptors
travel along. The manager's copies of those outlive us: they come back to the next process as LISTEN_FDS
(sd_listen_fds(3)). What is kept under which name is decided in store.py.
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
#: A manager that does not read for so long is not going to.
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Where notifications go, and how often the watchdog wants one (seconds; None: it does not)."""

    address: str
    watchdog_s: float | None
    #: How many descriptors it keeps: from systemd 254 on it says so, before that nobody knows (None).
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
        """The node serves. Also ends a reload. MAINPID: after an upgrade or adoption we may be another process."""
        self._notify("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """A reload has begun; `ready` follows in any case. systemd wants the time of it (Type=notify-reload)."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The node is on its way out."""
        self._notify("STOPPING=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """A line for `systemctl status`."""
        self._notify(f"STATUS={text}")

    def alive(self) -> None:
        """The loop turns."""
        self._notify("WATCHDOG=1")

    def watchdog_within(self, patience_s: float) -> None:
        """Expect the next sign of life within this, and each one after it: until it is said again."""
        if self.watchdog_s is not None:
            self._notify("WATCHDOG=1", f"WATCHDOG_USEC={int(patience_s * 1e6)}")

    def store(self, name: str, fd: int) -> bool:
        """Keep a copy of *fd*; return whether the manager heard it (not whether it does).

        What is there already, under whatever name, is not kept twice. FDPOLL=0: a socket stays, even when an ICMP
        error waits in it.
        """
        return self._notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=[fd])

    def remove(self, name: str) -> None:
        """Close whatever is kept under *name*."""
        self._notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def wait(self, patience_s: float = _PATIENCE_S) -> bool:
        """Wait until everything said so far has been taken in (sd_notify_barrier(3)); return whether it was.

        A manager that is no systemd may not know barriers, and keeps us waiting.
        """
        if not self.address:
            return True
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self._notify("BARRIER=1", descriptors=[theirs])
            os.close(theirs)
            theirs = -1
            poll = select.poll()
            poll.register(ours, 0)  # a hang-up is always reported: the manager closes its end
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
                log.debug("the service manager does not listen: %s", error)  # one that is gone does not want to know
                return False
        return True


def received(environment: MutableMapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """Return (name, descriptor) for each that the service manager kept or opened for us; they are the caller's now.

    The variables go: a program that this process becomes later (an upgrade) has the same pid and not the descriptors.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    return [(names[index] if index < len(names) else "", fd) for index, fd in enumerate(fds)]
