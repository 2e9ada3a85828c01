"""The slots: fixed sets of descriptors that outlive the workers that use them.

A slot is one UDP socket per listener, a hand-over link (a SEQPACKET pair: the slot's worker reads one end, everybody
else writes to the other), a slab of counters, and the memory of used tokens that all slots of the node share. There are
twice as many slots as cores: core c has the slots c and c + cores, so that a newcomer can sit beside the one that it
replaces.

The supervisor keeps everything open until it stops. Copies travel to workers with `Equip` and `Keep`, and come back
with `Held` when another supervisor adopts them. A `Bundle` is the descriptors of one slot in the order of `Keep`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from supervisor.machine import sockets
from supervisor.node.worker import Worker
from velocity_edge.quic import single_use
from velocity_edge.wire import slab
from velocity_edge.wire.messages import Listener

log = logging.getLogger(__name__)

#: What may wait on a hand-over link. Strays are rare (a GRO train with two connections of one address in it).
_LINK_BUFFER_BYTES = 1024 * 1024


@dataclass(slots=True)
class Bundle:
    """The descriptors of one slot."""

    udp: list[socket.socket]
    link_receive: socket.socket
    link_send: socket.socket
    slab_fd: int
    slab: slab.Slab
    #: The node's used tokens (`Slots`), and what a supervisor of a later version added: kept open for the next one of
    #: that version.
    more: list[int] = field(default_factory=list)

    def descriptors(self) -> list[int]:
        """Return them in the order of `messages.Keep`."""
        own = [self.link_receive.fileno(), self.link_send.fileno(), self.slab_fd]
        return [*(s.fileno() for s in self.udp), *own, *self.more]

    def close(self) -> None:
        """Let go."""
        for sock in (*self.udp, self.link_receive, self.link_send):
            sock.close()
        self.slab.close()
        for fd in (self.slab_fd, *self.more):
            os.close(fd)

    def renew_slab(self, slot: int) -> bool:
        """Give the slot a slab with the cells of this version, for a worker to come; return whether it needed one.

        The one of another version goes on from here: what its cells counted is carried over by name.
        """
        if self.slab.current:
            return False
        fd = slab.create(f"velocity-slot-{slot}")
        fresh = slab.Slab(fd)
        fresh.add(self.slab.counts())
        self.slab.close()
        os.close(self.slab_fd)
        self.slab_fd, self.slab = fd, fresh
        return True


def _fresh_bundle(udp: list[socket.socket], slot: int) -> Bundle:
    link_receive, link_send = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    link_send.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINK_BUFFER_BYTES)
    fd = slab.create(f"velocity-slot-{slot}")
    return Bundle(udp, link_receive, link_send, fd, slab.Slab(fd))


def bundle_of(descriptors: Sequence[int], listeners: int, slot: int) -> Bundle:
    """Return the bundle that came back with `Held`; the descriptors are the bundle's now.

    A slab of another version is used as it is, for as long as its worker lives (slab.py). One that cannot be read, from
    before slabs named their cells, is replaced: what its worker still counts is lost, and said to be.
    """
    udp, (link_receive, link_send, slab_fd, *more) = descriptors[:listeners], descriptors[listeners:]
    try:
        mapped = slab.Slab(slab_fd)
    except slab.SlabMismatch as error:
        log.warning("cannot read the counters of slot %d (%s): they begin anew", slot, error)
        os.close(slab_fd)
        slab_fd = slab.create(f"velocity-slot-{slot}")
        mapped = slab.Slab(slab_fd)
    return Bundle(
        [socket.socket(fileno=fd) for fd in udp],
        socket.socket(fileno=link_receive),
        socket.socket(fileno=link_send),
        slab_fd,
        mapped,
        more,
    )


@dataclass(slots=True)
class Slots:
    """All slots of a node, by number."""

    cores: int
    listeners: list[Listener]
    bundles: list[Bundle]

    def __post_init__(self) -> None:
        """Have every slot carry the same memory of used tokens (velocity_edge/quic/single_use.py).

        It is the one that came back with a worker. Where none did, from workers of a version without it or from a
        service manager's store, it begins anew, and no token of before proves anything.
        """
        held = [fd for bundle in self.bundles for fd in bundle.more if single_use.is_ours(fd)]
        shared = os.dup(held[0]) if held else single_use.create(time.time())
        for bundle in self.bundles:
            for fd in [fd for fd in bundle.more if single_use.is_ours(fd)]:
                bundle.more.remove(fd)
                os.close(fd)
            bundle.more.insert(0, os.dup(shared))
        os.close(shared)

    @classmethod
    def open(cls, wanted: list[Listener], cores: int) -> Slots:
        """Open everything. Raises `VelocityError` when an address cannot be had."""
        listeners, groups = sockets.open_listeners(wanted, 2 * cores)
        bundles = [_fresh_bundle([group[slot] for group in groups], slot) for slot in range(2 * cores)]
        return cls(cores, listeners, bundles)

    @classmethod
    def adopt(cls, listeners: list[Listener], cores: int, held: dict[int, Bundle]) -> tuple[Slots, list[int]]:
        """Take over what was *held* for us; return the slots, and which of them had to be opened anew.

        Those had no keeper: their workers died while there was no supervisor. Nobody has their hand-over links yet; the
        workers that live drop strays for them until they are replaced.
        """
        missing = [slot for slot in range(2 * cores) if slot not in held]
        bundles = dict(held)
        for slot in missing:
            udp = [sockets.open_one_more(listener, listeners) for listener in listeners]
            bundles[slot] = _fresh_bundle(udp, slot)
        return cls(cores, listeners, [bundles[slot] for slot in range(2 * cores)]), missing

    def nobody_writes(self, except_in: Sequence[int]) -> None:
        """Set the gauges of slots without a living worker to zero: whoever wrote them is dead."""
        for slot, bundle in enumerate(self.bundles):
            if slot not in except_in:
                bundle.slab.take_over()

    def progress(self, workers: Mapping[int, Worker]) -> dict[int, int]:
        """Return worker id -> what its slab counts as progress, of those that serve and have such a count."""
        seen = {i: self.bundles[v.slot].slab.value("progress") for i, v in workers.items() if v.serving}
        return {worker_id: value for worker_id, value in seen.items() if value is not None}

    def groups(self) -> list[list[socket.socket]]:
        """Return sockets[listener][slot], as steering wants them."""
        return [[bundle.udp[index] for bundle in self.bundles] for index in range(len(self.listeners))]

    def equipment(self, slot: int) -> list[int]:
        """Return the descriptors of `messages.Equip` for the worker in *slot*."""
        own = self.bundles[slot]
        links = [bundle.link_send.fileno() for bundle in self.bundles]
        return [*(s.fileno() for s in own.udp), own.link_receive.fileno(), *links, own.slab_fd, *own.more]

    def drops(self) -> dict[tuple[int, int], int]:
        """Return (slot, listener index) -> datagrams that the kernel dropped because the socket was full."""
        return {
            (slot, index): sockets.drops(sock)
            for slot, bundle in enumerate(self.bundles)
            for index, sock in enumerate(bundle.udp)
        }

    def close(self) -> None:
        """Close everything: the end of the node."""
        for bundle in self.bundles:
            bundle.close()
