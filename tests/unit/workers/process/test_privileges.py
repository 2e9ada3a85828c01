"""Dropped privileges cannot be regained, and a worker that cannot drop them does not start."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from velocity_edge.errors import Unavailable
from velocity_edge.machine.worker_user import find_user
from workers.handlers.static import beneath


def run(code: str) -> list[str]:
    """Run *code* in an interpreter of its own; return the lines it printed."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.root
def test_privileges_cannot_be_regained() -> None:
    lines = run("""
        import os, socket
        from velocity_edge.machine.worker_user import find_user
        from workers.process.privileges import drop
        drop(find_user("nobody"))
        print(os.getresuid(), os.getresgid(), os.getgroups())
        for name, attempt in {
            "setuid": lambda: os.setuid(0),
            "port": lambda: socket.socket().bind(("127.0.0.1", 80)),
            "shadow": lambda: open("/etc/shadow"),
            "memory": lambda: open("/proc/self/mem"),
            "chroot": lambda: os.chroot("/"),
        }.items():
            try:
                attempt()
            except PermissionError:
                print(name, "refused")
            else:
                print(name, "WORKED")
        """)
    port = "port refused" if _unprivileged_from() > 80 else "port WORKED"
    assert lines == [
        "(65534, 65534, 65534) (65534, 65534, 65534) []",
        "setuid refused",
        port,
        "shadow refused",
        "memory refused",
        "chroot refused",
    ]


def _unprivileged_from() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


def test_a_second_thread_is_an_error() -> None:
    assert run("""
        import threading
        from workers.process.privileges import drop
        event = threading.Event()
        threading.Thread(target=event.wait).start()
        try:
            drop(None)
        except RuntimeError as error:
            print(error)
        event.set()
        """) == ["2 threads run; capabilities are dropped for one thread only"]


def test_a_user_must_exist_and_not_be_root() -> None:
    with pytest.raises(Unavailable, match="no such user"):
        find_user("nobody-of-that-name")
    with pytest.raises(Unavailable, match="user id is 0"):
        find_user("root")


def test_without_openat2_no_site_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    beneath.probe(fd, "here")
    monkeypatch.setattr(beneath, "_SYS_OPENAT2", 9999)  # a system call that no kernel has: ENOSYS
    with pytest.raises(Unavailable, match=r"cannot serve files from here: openat2 fails with .* Linux 5\.6"):
        beneath.probe(fd, "here")
    os.close(fd)
