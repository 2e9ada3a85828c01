"""Descriptors that a service manager keeps are used where they fit, and closed by both sides where they do not.

The manager is simulated here (a socket that takes copies); the real one is in tests/integration/test_systemd.py.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from supervisor.machine.slots import Slots
from supervisor.machine.systemd import ServiceManager, received
from supervisor.succession.fd_store import Store, complete, fits, names
from velocity_edge.wire.messages import Listener

LOOPBACK = Listener("127.0.0.1", 0)


class Manager:
    """Takes notifications as systemd does: descriptors by name, a barrier is over when its descriptor is closed."""

    def __init__(self, path: Path) -> None:
        self.kept: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.us = ServiceManager(str(path), None)

    def _run(self) -> None:
        while True:
            text, fds, _, _ = socket.recv_fds(self._socket, 4096, 8)
            if not text:
                return
            fields = dict(line.split("=", 1) for line in text.decode().splitlines())
            if "FDSTORE" in fields:
                assert fields["FDPOLL"] == "0", "a socket with an ICMP error in it stays"
                if any(os.path.sameopenfile(fds[0], fd) for _, fd in self.kept):
                    os.close(fds[0])
                else:
                    self.kept.append((fields["FDNAME"], fds[0]))
            elif "FDSTOREREMOVE" in fields:
                for name, fd in [each for each in self.kept if each[0] == fields["FDNAME"]]:
                    self.kept.remove((name, fd))
                    os.close(fd)
            else:
                for fd in fds:
                    os.close(fd)

    def hand_over(self) -> list[tuple[str, int]]:
        """Return what the next process gets."""
        assert self.us.wait()
        return [(name, os.dup(fd)) for name, fd in reversed(self.kept)]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            try:
                end.sendto(b"", self._socket.getsockname())
            except OSError:
                pass
        self._thread.join()
        self._socket.close()
        for _, fd in self.kept:
            os.close(fd)


@pytest.fixture
def manager(short_dir: Path) -> Iterator[Manager]:
    made = Manager(short_dir / "notify")
    yield made
    made.close()


def ports(slots: Slots) -> list[int]:
    return [slot.udp[0].getsockname()[1] for slot in slots]


def test_a_successor_gets_all_slots_with_the_packets_that_wait_in_their_sockets(manager: Manager) -> None:
    slots = Slots.open([LOOPBACK], 2)
    first = Store(manager.us, [])
    assert first.keep(slots) == ""
    assert first.keep(slots) == "", "a second call keeps nothing twice"
    assert manager.us.wait()
    assert len(manager.kept) == 4 * 4
    port = slots.listeners[0].port
    slots[3].slab.add({"requests": 5})
    slots.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in range(40):
            client.sendto(b"hello", ("127.0.0.1", port))
    second = Store(manager.us, manager.hand_over())
    bundles = second.take(partial(fits, [LOOPBACK]), 4)
    again, missing = Slots.adopt([Listener("127.0.0.1", port)], 2, bundles)
    assert (missing, ports(again)) == ([], [port] * 4)
    waiting = 0
    for slot in again:
        while True:
            try:
                slot.udp[0].recv(10)
            except BlockingIOError:
                break
            waiting += 1
        slot.link_send.send(b"stray")
        assert slot.link_receive.recv(10) == b"stray", "the two ends belong together"
    assert waiting == 40
    assert again[3].slab.read()["requests"] == 5
    again.close()


@pytest.mark.parametrize(
    ("wanted", "slots", "left"),
    [
        ([Listener("127.0.0.2", 0)], 4, 0),  # another address
        ([Listener("127.0.0.1", 1)], 4, 0),  # another port
        ([LOOPBACK, Listener("127.0.0.1", 0)], 4, 0),  # one more listener
        ([LOOPBACK], 2, 8),  # fewer cores
    ],
)
def test_descriptors_that_do_not_fit_are_closed_by_both_before_anything_is_bound(
    manager: Manager, wanted: list[Listener], slots: int, left: int
) -> None:
    gc.collect()  # no other descriptors are closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    opened = Slots.open([LOOPBACK], 2)
    Store(manager.us, []).keep(opened)
    opened.close()
    taken = Store(manager.us, manager.hand_over()).take(partial(fits, wanted), slots)
    assert len(manager.kept) == left
    assert len(taken) == left // 4
    for bundle in taken.values():
        bundle.close()
    # The manager of this test lives in this process.
    assert len(os.listdir("/proc/self/fd")) == before + left


def test_descriptors_from_workers_take_precedence(manager: Manager) -> None:
    """Slot 0 came back from a worker and differs from the kept one; slot 1 is only kept."""
    old = Slots.open([LOOPBACK], 1)
    store = Store(manager.us, [])
    store.keep(old)
    held = Slots.open([LOOPBACK], 1)
    bundles = Store(manager.us, manager.hand_over()).take(partial(fits, [LOOPBACK]), 2, {0: held[0]})
    assert list(bundles) == [1]
    assert {name.split("-")[1] for name, _ in manager.kept} == {"1"}, "the kept descriptors of slot 0 are removed"
    for each in (old, held):
        each.close()
    bundles[1].close()


def test_an_incomplete_slot_is_not_used() -> None:
    whole = names(3, 2)
    assert complete(whole) == {3: 2}
    for gone in whole:
        # Without its last listener it would look like a slot of a node with one.
        expected = {3: 1} if gone == "velocity-3-udp-1" else {}
        assert complete(name for name in whole if name != gone) == expected
    assert complete(["velocity-1-udp", "other", "velocity-x-slab", "velocity-1-slab"]) == {}


def test_an_orderly_stop_leaves_the_current_slots_or_nothing(manager: Manager) -> None:
    slots = Slots.open([LOOPBACK], 2)
    store = Store(manager.us, [])
    store.keep(slots)
    store.release(2)
    assert {name.split("-")[1] for name, _ in manager.kept} == {"0", "1"}
    store.clear()
    assert manager.kept == []
    slots.close()


def test_a_store_that_is_too_small_is_reported() -> None:
    slots = Slots.open([LOOPBACK], 1)
    assert Store(ServiceManager("", None, 1), []).keep(slots) == "", "nothing to report"
    manager = ServiceManager("@velocity-nobody-listens", None, 1)
    assert "does not take descriptors" in Store(manager, []).keep(slots)
    slots.close()


def test_descriptors_for_another_process_are_not_used() -> None:
    ours = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}
    for environment in (ours, {**ours, "LISTEN_PID": "1", "LISTEN_FDS": "2"}, {}):
        left = dict(environment)
        assert received(left) == []
        assert left == {}, "a program that is executed later must not find them"
