"""The loop that serves packets: batches in, engine, exchanges, batches out (the turn that quic/datagrams.py describes).

This file has the sockets, the clock and the timer; it decides how much work one turn of the loop may do, and what waits
for what. What packets mean is the engine's, what requests get is exchanges.py's.

A turn: a socket or the link is readable -> one batch is taken (more stays for the next turn, so that no socket keeps
the loop) -> events -> strays go to their owners -> what the engine has to say leaves, at most `_MAX_SEND_BATCHES` at a
time. A socket that would block stops all sending until it is writable: the engine keeps what waits, with bounds of its
own. Receiving goes on meanwhile, as acknowledgements are what makes room.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final

from velocity_edge.quic import handover, udp
from velocity_edge.quic.datagrams import Batch, Datagrams
from workers.serve.exchanges import Exchanges

log = logging.getLogger(__name__)

#: Send batches per turn; then other callbacks have their turn. A batch is some dozen trains of up to 64 KiB.
_MAX_SEND_BATCHES: Final = 8
#: Packets taken from the hand-over link per turn.
_MAX_LINK_PACKETS: Final = 128
#: While no packet can leave, timers are looked at no more often than this.
_BLOCKED_TIMER_NS: Final = 5_000_000
_LINK_PACKET_BYTES: Final = handover.HEADER_LENGTH + handover.MAX_DATAGRAM_LENGTH


class Endpoint:
    """The sockets of one slot, driven by an asyncio loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: Datagrams,
        exchanges: Exchanges,
        *,
        sockets: Sequence[int],
        link: socket.socket,
        links: Sequence[socket.socket],
    ) -> None:
        """*sockets*: one UDP descriptor per listener. *link*: where strays for us arrive; *links*: one per slot.

        They stay the caller's.
        """
        self._loop = loop
        self._engine = engine
        self._exchanges = exchanges
        self._sockets = tuple(sockets)
        self._link = link
        self._links = tuple(links)
        self._roster: Mapping[int, int] = {}
        self._incoming: Batch = engine.batch()
        self._outgoing: Batch = engine.batch()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._flush_scheduled = False
        #: A socket would block: the outgoing batch is kept until it is writable.
        self._blocked = False
        self._running = False
        #: Strays that were lost because their owner's link was full or gone.
        self.handover_full = 0

    # --- the worker's part -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read."""
        self._running = True
        for listener, fd in enumerate(self._sockets):
            missing = udp.prepare_descriptor(fd)
            if missing:
                log.warning("listener %d: this kernel lacks %s", listener, ", ".join(missing))
            self._loop.add_reader(fd, self._on_readable, fd, listener)
        self._loop.add_reader(self._link, self._on_link)
        self.flush_soon()

    def stop(self) -> None:
        """Stop reading and sending. What waits in the sockets stays there, for whoever has them next."""
        self._running = False
        self._loop.remove_reader(self._link)
        for fd in self._sockets:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def use_roster(self, roster: Mapping[int, int], unborn: frozenset[int] = frozenset()) -> None:
        """Worker id -> slot of everybody who is alive, us included. Strays of *unborn* ids are lost, and not reset."""
        self._roster = dict(roster)
        self._engine.use_roster(frozenset(roster) | unborn)

    def flush_soon(self) -> None:
        """Have the engine's packets sent after the callbacks of this turn."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._scheduled_flush)

    async def drained_output(self, timeout_s: float) -> bool:
        """Send what the engine has; return whether all of it left in time."""
        deadline = self._loop.time() + timeout_s
        self._flush()
        while self._blocked or self._flush_scheduled:
            if self._loop.time() >= deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    # --- in ----------------------------------------------------------------------------------------------------------

    def _on_readable(self, fd: int, listener: int) -> None:
        self._incoming.receive(fd, listener)
        self._turn()

    def _on_link(self) -> None:
        batch = self._incoming
        for _ in range(_MAX_LINK_PACKETS):
            try:
                packet = self._link.recv(_LINK_PACKET_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not packet:  # we hold a sending end ourselves, so this is no end of file but somebody's empty packet
                continue
            try:
                train = handover.decode(packet)
            except handover.HandoverError as error:
                log.warning("hand-over link: %s", error)
                continue
            if not batch.append(train):
                self._take_in()
                batch.append(train)
        self._turn()

    def _turn(self) -> None:
        self._take_in()
        self._flush()

    def _take_in(self) -> None:
        events = self._engine.receive(self._incoming, time.monotonic_ns())
        if events:
            self._exchanges.handle(events)
        strays = self._engine.strays()
        if strays:
            self._hand_over(strays)

    def _hand_over(self, strays: list[tuple[int, bytes]]) -> None:
        for owner, packet in strays:
            slot = self._roster.get(owner)
            try:
                if slot is None:
                    raise BlockingIOError  # gone since the engine looked: lost like in a full link
                self._links[slot].send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                self.handover_full += 1

    # --- time --------------------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        self._timer = None
        now_ns = time.monotonic_ns()
        due_ns = self._engine.next_timer_ns()
        if due_ns is not None and due_ns <= now_ns:
            events = self._engine.expire(now_ns)
            if events:
                self._exchanges.handle(events)
        self._flush()

    def _arm_timer(self) -> None:
        due_ns = self._engine.next_timer_ns()
        if due_ns is None:
            return
        if self._blocked:
            # What is due may be waiting for room: without this the loop would spin until there is some.
            due_ns = max(due_ns, time.monotonic_ns() + _BLOCKED_TIMER_NS)
        if self._timer is not None:
            # A timer that fires early looks again; so only an earlier deadline needs a new one.
            if due_ns >= self._timer_ns:
                return
            self._timer.cancel()
        self._timer_ns = due_ns
        self._timer = self._loop.call_at(due_ns * 1e-9, self._on_timer)

    # --- out ---------------------------------------------------------------------------------------------------------

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        if self._running:
            self._flush()

    def _flush(self) -> None:
        if self._blocked:
            self._arm_timer()
            return
        engine, outgoing = self._engine, self._outgoing
        for _ in range(_MAX_SEND_BATCHES):
            if not engine.send(outgoing, time.monotonic_ns()):
                break
            if not outgoing.transmit(self._sockets):
                self._wait_for_room()
                return
        else:
            self.flush_soon()
        self._arm_timer()

    def _wait_for_room(self) -> None:
        self._blocked = True
        for fd in self._sockets:
            self._loop.add_writer(fd, self._on_room)
        self._arm_timer()

    def _on_room(self) -> None:
        if not self._outgoing.transmit(self._sockets):
            return
        self._blocked = False
        for fd in self._sockets:
            self._loop.remove_writer(fd)
        self._flush()
