"""What a service manager is told (sd_notify(3)). Without NOTIFY_SOCKET every call does nothing.

No library: the protocol is one datagram of NAME=value lines to a Unix socket whose name may be abstract.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Where notifications go, and how often the watchdog wants one (seconds; None: it does not)."""

    address: str
    watchdog_s: float | None

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> ServiceManager:
        """Read NOTIFY_SOCKET and WATCHDOG_USEC."""
        watchdog_us = environment.get("WATCHDOG_USEC", "")
        for_us = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() and for_us else None
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s)

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

    def _notify(self, *lines: str) -> None:
        if not self.address:
            return
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(text.encode(), name)
            except OSError:
                pass  # a manager that is gone does not want to know
