"""Attaching a program again replaces that of the whole group while sockets receive (moqx#371: a use after free), and
a socket's cookie may be missing or foreign (nginx#1265). Here successors do both, under load.
"""

import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from bpf import abi, kernel, linux
from supervisor.steering import kernel as steering_kernel
from tests.support.loopback_group import bound, group, known, new
from velocity_edge.errors import Unavailable

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_thirty_adoptions_lose_no_packet(cache_dir: Path) -> None:
    with group(4, cache_dir) as g:
        for slot in range(4):
            g.steering.lend(0x0100 + slot, slot, 0)
        g.steering.accept([0x0100, 0x0101])
        for _ in range(30):
            g.succeed()
            assert g.where(known(0x0103, 10)) == {3: 10}
            assert g.where(new(20)).keys() <= {0, 1}
        assert g.steering.counters()["select"]["selected_known_worker"] == 300


def adopt_with_another_socket(g: Any) -> dict[int, int]:
    """Slot 2 of an adopted table holds the socket of another living process; ours is a different one."""
    g.steering.lend(0x0102, 2, 0)
    g.steering.accept([0x0102])
    before, g.members[2] = g.members[2], bound(g.port)
    try:
        g.succeed()
        return dict(g.where(known(0x0102), before))
    finally:
        before.close()


def test_adopted_slot_leads_to_the_new_socket(cache_dir: Path) -> None:
    with group(4, cache_dir) as g:
        assert adopt_with_another_socket(g) == {2: 20}


def test_without_the_cookie_check_it_leads_to_the_old_socket(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive version: any socket in the slot is taken for ours."""
    place = steering_kernel._place

    def trusting(fd: int, slot: int, member: socket.socket) -> None:
        if kernel.lookup(fd, slot.to_bytes(4, "little"), abi.SOCKET_VALUE_BYTES) is None:
            place(fd, slot, member)

    monkeypatch.setattr(steering_kernel, "_place", trusting)
    with group(4, cache_dir) as g:
        assert adopt_with_another_socket(g) == {-1: 20}


class Cookieless(socket.socket):
    """As on a kernel before 4.12."""

    def getsockopt(self, *arguments: int) -> Any:  # type: ignore[override]
        if arguments[1] == linux.SO_COOKIE:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return super().getsockopt(*arguments)


def test_missing_socket_cookies_are_reported(cache_dir: Path) -> None:
    with group(2, cache_dir) as g:
        g.members[1] = Cookieless(fileno=g.members[1].detach())
        g.steering.release()
        with pytest.raises(
            Unavailable, match=rf"cannot steer to slot 1 of 127.0.0.1 port {g.port}: Protocol not avail"
        ):
            g.open(adopt=True)
        g.members[1] = socket.socket(fileno=g.members[1].detach())
        g.steering = g.open(adopt=True)
