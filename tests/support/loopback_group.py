"""A listener's reuseport group on loopback with the real steering, without a node; packets per slot are counted."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bpf import pins
from supervisor.steering.choose import Steering, open_steering
from tests.support.packets import INITIAL, long, random_dcid, short
from tests.support.traffic import CODEC, CONFIG
from velocity_edge.wire.messages import Listener

_numbers = itertools.count()


def bound(port: int = 0) -> socket.socket:
    """A socket of the group (a new group with port 0)."""
    member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    member.bind(("127.0.0.1", port))
    return member


class Group:
    """*slots* sockets of one group. `members` may be closed and replaced."""

    def __init__(self, slots: int, cache_dir: Path, mode: str = "socket") -> None:
        self.members = [bound()]
        self.port = self.members[0].getsockname()[1]
        self.members += [bound(self.port) for _ in range(slots - 1)]
        self.instance = f"test-pitfall-{os.getpid()}-{next(_numbers)}"
        self.cache_dir, self.mode = cache_dir, mode
        self.steering: Steering = self.open(adopt=False)
        self.steered = True

    def open(self, *, adopt: bool) -> Steering:
        return open_steering(
            mode=self.mode,
            instance=self.instance,
            listeners=[Listener("127.0.0.1", self.port)],
            sockets=[self.members],
            interfaces=[],
            cache_dir=self.cache_dir,
            cid_configs=[CONFIG],
            adopt=adopt,
        )

    def succeed(self) -> None:
        """Simulate the death of a supervisor and the adoption of its steering."""
        self.steering.release()
        self.steering = self.open(adopt=True)
        assert self.steering.adopted

    def where(self, packets: list[bytes], *others: socket.socket) -> Counter[int]:
        """Send each from a different port; return how many arrived in which slot. *others* count from -1 downwards."""
        readers = {member.fileno(): slot for slot, member in enumerate(self.members) if member.fileno() >= 0}
        readers |= {other.fileno(): -1 - index for index, other in enumerate(others)}
        by_fd = {each.fileno(): each for each in (*self.members, *others)}
        counts: Counter[int] = Counter()
        # At most as many at a time as fit into one socket's buffer.
        for start in range(0, len(packets), 40):
            with contextlib.ExitStack() as stack:
                for packet in packets[start : start + 40]:
                    client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    client.sendto(packet, ("127.0.0.1", self.port))
            # On loopback they have arrived when sendto returns.
            while readable := select.select(list(readers), [], [], 0.01)[0]:
                for fd in readable:
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            by_fd[fd].recv(2000)
                            counts[readers[fd]] += 1
        return counts

    def detach(self) -> None:
        """Detach the program, so that the kernel chooses."""
        self.steering.detach()
        self.steered = False

    def close(self) -> None:
        if self.steered:
            self.detach()
        for member in self.members:
            member.close()
        assert self.instance not in pins.instances()


def known(worker_id: int, count: int = 20) -> list[bytes]:
    """Packets of connections of a worker."""
    return [short(CODEC.issue(1, worker_id)) for _ in range(count)]


def new(count: int = 100) -> list[bytes]:
    """First packets of clients."""
    return [long(INITIAL, random_dcid()) for _ in range(count)]


@contextlib.contextmanager
def group(slots: int, cache_dir: Path, mode: str = "socket") -> Iterator[Group]:
    made = Group(slots, cache_dir, mode)
    try:
        yield made
    finally:
        made.close()
