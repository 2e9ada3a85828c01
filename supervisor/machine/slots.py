"""The slots: fixed sets of descriptors that outlive the workers that use them.

A slot is one UDP socket per listener, a hand-over link (a SEQPACKET pair: the slot's worker reads one end, all others
write to the other), a slab of counters, and the memory that all slots of the node share: used tokens and the counts of
rate limits. There are twice as many slots as cores: core c has the slots c and c + cores, so that a new worker can run
beside the one it replaces.

The supervisor keeps everything open until it stops. Copies travel to workers with `Equip` and `Keep`, and come back
with `Held` when another supervisor adopts them; their order is in velocity_edge/wire/bundle.py.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from supervisor.machine import sockets
from velocity_edge.quic import single_use
from velocity_edge.wire import rate_cells, slab
from velocity_edge.wire.bundle import Bundle
from velocity_edge.wire.messages import Listener

log = logging.getLogger(__name__)

#: Queue of a hand-over link. Strays are rare (a GRO train with two connections of one address in it).
_LINK_BUFFER_BYTES = 1024 * 1024


@dataclass(slots=True)
class Slot:
    """One slot with its descriptors open and its slab mapped."""

    udp: list[socket.socket]
    link_receive: socket.socket
    link_send: socket.socket
    slab_fd: int
    slab: slab.Slab
    #: What all slots share (`Slots`), and what a later version of the supervisor added: kept open for the next one of
    #: that version.
    used_tokens: int | None = None
    rate_cells: int | None = None
    more: tuple[int, ...] = ()

    @classmethod
    def fresh(cls, udp: list[socket.socket], number: int) -> Slot:
        """Return a slot with these sockets, a new link and a new slab."""
        link_receive, link_send = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        link_send.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINK_BUFFER_BYTES)
        fd = slab.create(f"velocity-slot-{number}")
        return cls(udp, link_receive, link_send, fd, slab.Slab(fd))

    @classmethod
    def of(cls, bundle: Bundle, number: int) -> Slot:
        """Open what came back with `Held` or from the service manager; the descriptors belong to the slot from now on.

        A slab of another version is used as it is for as long as its worker lives (slab.py). One that cannot be read
        (from before slabs named their cells) is replaced: what its worker still counts is lost, and a warning says so.
        """
        slab_fd = bundle.slab
        try:
            mapped = slab.Slab(slab_fd)
        except slab.SlabMismatch as error:
            log.warning("cannot read the counters of slot %d (%s): they start at zero", number, error)
            os.close(slab_fd)
            slab_fd = slab.create(f"velocity-slot-{number}")
            mapped = slab.Slab(slab_fd)
        return cls(
            [socket.socket(fileno=fd) for fd in bundle.sockets],
            socket.socket(fileno=bundle.receive),
            socket.socket(fileno=bundle.send[0]),
            slab_fd,
            mapped,
            bundle.used_tokens,
            bundle.rate_cells,
            bundle.more,
        )

    @property
    def bundle(self) -> Bundle:
        """The descriptors, for `messages.Keep` and the service manager."""
        return Bundle(
            tuple(sock.fileno() for sock in self.udp),
            self.link_receive.fileno(),
            (self.link_send.fileno(),),
            self.slab_fd,
            self.used_tokens,
            self.rate_cells,
            self.more,
        )

    def close(self) -> None:
        """Close every descriptor and unmap the slab."""
        for sock in (*self.udp, self.link_receive, self.link_send):
            sock.close()
        self.slab.close()
        os.close(self.slab_fd)
        for fd in self.trailing:
            os.close(fd)
        self.used_tokens, self.rate_cells, self.more = None, None, ()

    def renew_slab(self, number: int) -> bool:
        """Give the slot a slab with the cells of this version, for its next worker; return whether it needed one.

        The counters of a slab of another version are carried over by name.
        """
        if self.slab.current:
            return False
        fd = slab.create(f"velocity-slot-{number}")
        fresh = slab.Slab(fd)
        fresh.add(self.slab.counts())
        self.slab.close()
        os.close(self.slab_fd)
        self.slab_fd, self.slab = fd, fresh
        return True

    def share(self, used_tokens: int, rates: int) -> None:
        """Carry copies of this memory of used tokens and of rates in place of others."""
        copies = os.dup(used_tokens), os.dup(rates)
        replaced = [fd for fd in self.trailing if single_use.is_ours(fd) or rate_cells.is_ours(fd)]
        self.more = tuple(fd for fd in self.trailing if fd not in replaced)
        self.used_tokens, self.rate_cells = copies
        for fd in replaced:
            os.close(fd)

    @property
    def trailing(self) -> list[int]:
        """The descriptors after the slab."""
        return [*(fd for fd in (self.used_tokens, self.rate_cells) if fd is not None), *self.more]


class Slots:
    """All slots of a node, by number."""

    def __init__(self, cores: int, listeners: list[Listener], slots: Iterable[Slot]) -> None:
        self.cores = cores
        self.listeners = listeners
        self._slots = list(slots)
        # Every slot carries the same memory of used tokens (velocity_edge/quic/single_use.py) and of rates
        # (velocity_edge/wire/rate_cells.py): the one that came back with a worker. Workers of a version without it and
        # the service manager's store bring none. Where no slot has one, a new one is made: no token from before proves
        # an address, and rate limits count from zero.
        tokens = self._held(single_use.is_ours) or single_use.create(time.time())
        rates = self._held(rate_cells.is_ours) or rate_cells.create()
        for slot in self._slots:
            slot.share(tokens, rates)
        for fd in (tokens, rates):
            os.close(fd)

    @classmethod
    def open(cls, wanted: list[Listener], cores: int) -> Slots:
        """Open everything. Raises `VelocityError` when an address cannot be bound."""
        listeners, groups = sockets.open_listeners(wanted, 2 * cores)
        slots = (Slot.fresh([group[number] for group in groups], number) for number in range(2 * cores))
        return cls(cores, listeners, slots)

    @classmethod
    def adopt(cls, listeners: list[Listener], cores: int, held: Mapping[int, Slot]) -> tuple[Slots, list[int]]:
        """Take over the *held* slots; return all slots, and the numbers of those that were opened new.

        A slot is missing when every process that held its descriptors has died. No worker has the link of a new one
        yet: workers drop strays for it until they are replaced.
        """
        missing = [number for number in range(2 * cores) if number not in held]
        slots = dict(held)
        for number in missing:
            udp = [sockets.open_one_more(listener, listeners) for listener in listeners]
            slots[number] = Slot.fresh(udp, number)
        return cls(cores, listeners, (slots[number] for number in range(2 * cores))), missing

    def _held(self, is_ours: Callable[[int], bool]) -> int | None:
        """Return a copy of the first memory of that kind in a slot."""
        return next((os.dup(fd) for slot in self._slots for fd in slot.trailing if is_ours(fd)), None)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def reset_gauges(self, except_in: Sequence[int]) -> None:
        """Set the gauges of slots without a living worker to zero."""
        for number, slot in enumerate(self):
            if number not in except_in:
                slot.slab.take_over()

    def progress(self, serving: Mapping[int, int]) -> dict[int, int]:
        """Return worker id -> its progress count, of the *serving* workers (id -> slot) whose slab has that count."""
        seen = {worker_id: self[number].slab.value("progress") for worker_id, number in serving.items()}
        return {worker_id: value for worker_id, value in seen.items() if value is not None}

    def groups(self) -> list[list[socket.socket]]:
        """Return sockets[listener][slot], as steering wants them."""
        return [[slot.udp[index] for slot in self] for index in range(len(self.listeners))]

    def equipment(self, number: int) -> list[int]:
        """Return the descriptors of `messages.Equip` for the worker in this slot."""
        links = tuple(slot.link_send.fileno() for slot in self)
        return replace(self[number].bundle, send=links).pack()

    def drops(self) -> dict[tuple[int, int], int]:
        """Return (slot, listener index) -> datagrams that the kernel dropped because the socket was full."""
        return {
            (number, index): sockets.drops(sock)
            for number, slot in enumerate(self)
            for index, sock in enumerate(slot.udp)
        }

    def close(self) -> None:
        """Close everything when the node stops."""
        for slot in self:
            slot.close()
