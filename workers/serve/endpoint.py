"""The loop that serves packets: batches in, engine, exchanges, batches out (the turn that quic/datagrams.py describes).

This file has the sockets, the clock and the timer; it decides how much work one turn of the loop may do. The engine
processes packets; exchanges.py processes requests.

A turn: a socket or the link is readable -> one batch is received (the rest stays for the next turn, so that no socket
monopolizes the loop) -> events -> strays are sent to their owners -> the engine's packets are sent, at most
`_MAX_SEND_BATCHES` batches at a time. A socket that would block stops all sending until it is writable: the engine
keeps unsent packets, within its own bounds. Receiving continues, because acknowledgements free that memory.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final

from velocity_edge.http.upstreams import Forwarding
from velocity_edge.quic import handover, udp
from velocity_edge.quic.datagrams import Batch, Datagrams
from workers.serve.exchanges import Exchanges

log = logging.getLogger(__name__)

#: Send batches per turn; then other callbacks run. A batch has some dozen trains of up to 64 KiB.
_MAX_SEND_BATCHES: Final = 8
#: Packets received from the hand-over link per turn.
_MAX_LINK_PACKETS: Final = 128
#: While no packet can be sent, the timer fires no more often than this.
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
        """*sockets*: one UDP descriptor per listener. *link*: where strays for this worker arrive; *links*: one per
        slot.

        The caller keeps and closes them.
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
        self._forwarding: Forwarding | None = None
        #: Strays that were dropped because their owner's link was full or closed.
        self.handover_full = 0

    # --- for the worker
    # ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to receive."""
        self._running = True
        for listener, fd in enumerate(self._sockets):
            missing = udp.prepare_descriptor(fd)
            if missing:
                log.warning("listener %d: this kernel does not support %s", listener, ", ".join(missing))
            self._loop.add_reader(fd, self._on_readable, fd, listener)
        self._loop.add_reader(self._link, self._on_link)
        if self._forwarding is not None:
            self._loop.add_reader(self._forwarding.fileno(), self._on_upstreams)
        self.flush_soon()

    def use_forwarding(self, forwarding: Forwarding) -> None:
        """Drive these upstream connections, too. Before `start`."""
        self._forwarding = forwarding

    def stop(self) -> None:
        """Stop receiving and sending. Packets in the sockets stay there for the next worker of the slot."""
        self._running = False
        self._loop.remove_reader(self._link)
        if self._forwarding is not None:
            self._loop.remove_reader(self._forwarding.fileno())
        for fd in self._sockets:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def use_roster(self, roster: Mapping[int, int], unborn: frozenset[int] = frozenset()) -> None:
        """*roster*: worker id -> slot of all live workers. Strays of *unborn* ids are dropped, not reset."""
        self._roster = dict(roster)
        self._engine.use_roster(frozenset(roster) | unborn)

    def flush_soon(self) -> None:
        """Send the engine's packets after the callbacks of this turn."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._scheduled_flush)

    async def drained_output(self, timeout_s: float) -> bool:
        """Send the engine's packets; return whether all were sent in time."""
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
            if not packet:  # an empty packet: this process holds a sending end, so it is not the end of file
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

    def _on_upstreams(self) -> None:
        assert self._forwarding is not None
        events = self._forwarding.turn(time.monotonic_ns())
        if events:
            self._exchanges.handle(events)
        self._flush()

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
                    raise BlockingIOError  # it ended since the engine decided: dropped as for a full link
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
            # What is due may wait for the socket: without this the loop would spin until it is writable.
            due_ns = max(due_ns, time.monotonic_ns() + _BLOCKED_TIMER_NS)
        if self._timer is not None:
            # A timer that fires early is armed again, so that only an earlier deadline needs a new one.
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
