"""The worker's end of the channel to its supervisor, and to the supervisor after that one.

Reports go out without waiting; orders come in and are given to one function. When the channel ends, the worker goes on
serving and tries to reach a successor at `Equip.successor_path` every second; there it says Hello again, hands over
copies of the descriptors it holds (`Held`), and obeys from then on. A supervisor that sends nonsense counts as gone.

Left alone, a worker          does
has never served              stops
serves                        serves on, for as long as it takes
drains                        drains on, its deadline holds
has drained                   stops after `ALONE_S`: nobody would miss it, and its sockets are in the way of others
was told to stop              stops
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from velocity_edge.wire.channel import Channel, ChannelFull, Received
from velocity_edge.wire.messages import Held, Hello, MessageError, Order, Report, Stop, decode_order

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0
#: Where something starts supervisors again, one comes within seconds. One that comes later starts the worker anew.
ALONE_S: Final = 30.0


class Supervision:
    """One worker's connection to whoever supervises it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        obey: Callable[[Received[Order]], None],
        hello: Callable[[], Hello],
        held: Callable[[], Sequence[tuple[Held, Sequence[int]]]],
        drained: Callable[[], bool],
        wall_clock: Callable[[], float],
    ) -> None:
        """*obey* takes each order; *hello* and *held* are what a supervisor is told first.

        *drained*: whether this worker has nobody left and takes nobody new.
        """
        self._loop = loop
        self._obey = obey
        self._hello = hello
        self._held = held
        self._drained = drained
        self._wall_clock = wall_clock
        #: Since when nobody has told us anything, by the loop's clock and by that of people; None: somebody is there.
        self._alone_since_s: float | None = None
        self.alone_at_s = 0.0
        self._channel: Channel[Order] | None = None
        self._writing = False
        self._retry: asyncio.TimerHandle | None = None
        #: Where a successor listens; "" before `Equip`.
        self.successor_path = ""

    @property
    def orphaned(self) -> bool:
        """Nobody supervises us."""
        return self._channel is None

    def adopt(self, end: socket.socket, *, first: bool) -> None:
        """Use this channel from now on, and say Hello. Not the *first* one: say what we hold, too."""
        self._channel = Channel(end, decode_order)
        self._loop.add_reader(end.fileno(), self._on_readable)
        self.report(self._hello())
        if not first:
            for held, descriptors in self._held():
                self.report(held, descriptors)

    def report(self, report: Report, descriptors: Sequence[int] = ()) -> None:
        """Send *report*; without a supervisor it is dropped, as its facts are told anew to the next one."""
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send(report, descriptors)
        except ChannelFull as error:
            self._lost(f"it does not read: {error}")
            return
        self._watch_writable(channel)

    def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            self._forget(self._channel)
        if self._retry is not None:
            self._retry.cancel()

    def _on_readable(self) -> None:
        channel = self._channel
        assert channel is not None
        try:
            orders = channel.receive()
        except MessageError as error:
            self._lost(f"it sent what is no order: {error}")
            return
        if orders:
            self._alone_since_s = None
        for received in orders:
            self._obey(received)
        if channel.closed and self._channel is channel:
            self._lost("it hung up")

    def _watch_writable(self, channel: Channel[Order]) -> None:
        if channel.pending and not self._writing:
            self._writing = True
            self._loop.add_writer(channel.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        channel = self._channel
        assert channel is not None
        channel.flush()
        if not channel.pending:
            self._writing = False
            self._loop.remove_writer(channel.fileno())

    def _lost(self, why: str) -> None:
        assert self._channel is not None
        if self._hello().revision == 0:
            # Never served: nobody would miss us, and no successor adopts us.
            log.warning("the supervisor is gone (%s) before this worker served: stopping", why)
            self._forget(self._channel)
            self._obey(Received(Stop(), []))
            return
        log.warning("the supervisor is gone (%s); serving on and looking for its successor", why)
        self._forget(self._channel)
        if self._alone_since_s is None:
            self._alone_since_s, self.alone_at_s = self._loop.time(), self._wall_clock()
        self._retry = self._loop.call_later(_RETRY_S, self._look_for_successor)

    def _forget(self, channel: Channel[Order]) -> None:
        self._loop.remove_reader(channel.fileno())
        if self._writing:
            self._loop.remove_writer(channel.fileno())
            self._writing = False
        channel.close()
        self._channel = None

    def _look_for_successor(self) -> None:
        self._retry = self._loop.call_later(_RETRY_S, self._look_for_successor)
        if not self.successor_path:
            return
        if self._drained() and self._loop.time() >= (self._alone_since_s or 0.0) + ALONE_S:
            log.warning("drained, and no supervisor came within %g s: stopping", ALONE_S)
            self._retry.cancel()
            self._obey(Received(Stop(), []))
            return
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.setblocking(False)
        try:
            end.connect(self.successor_path)
        except OSError:  # nobody there yet, or its backlog is full: next second
            end.close()
            return
        self._retry.cancel()
        log.info("a supervisor answers at %s: reporting to it", self.successor_path)
        self.adopt(end, first=False)
