"""The worker's end of the channel to its supervisor, and to the supervisor's successor.

Reports are sent without waiting; orders are passed to one function. When the channel ends, the worker continues to
serve and tries to connect to a successor at `Equip.successor_path` every second; there it sends Hello again, passes
copies of the descriptors it holds (`Held`), and obeys from then on. A supervisor that sends an invalid order counts as
gone.

A worker without supervisor   does
has never served              stops
serves                        continues to serve, without a limit
drains                        continues to drain, with the same deadline
has drained                   stops after `ALONE_S`: it has no connections, and its sockets block others
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
#: A service manager restarts a supervisor within seconds. One that starts later starts new workers.
ALONE_S: Final = 30.0


class Supervision:
    """One worker's connection to its supervisor."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        obey: Callable[[Received[Order]], None],
        hello: Callable[[], Hello],
        held: Callable[[], Sequence[tuple[Held, Sequence[int]]]],
        drained: Callable[[], bool],
        wall_clock: Callable[[], float],
    ) -> None:
        """*obey* takes each order; *hello* and *held* return the first reports to a supervisor.

        *drained*: whether this worker has no connections and accepts none.
        """
        self._loop = loop
        self._obey = obey
        self._hello = hello
        self._held = held
        self._drained = drained
        self._wall_clock = wall_clock
        #: Since when there is no supervisor, by the loop's clock and by wall time; None: there is one.
        self._alone_since_s: float | None = None
        self.alone_at_s = 0.0
        self._channel: Channel[Order] | None = None
        self._writing = False
        self._retry: asyncio.TimerHandle | None = None
        #: Called when there is another supervisor, which knows nothing that was measured.
        self.on_successor: Callable[[], None] = lambda: None
        #: Where a successor listens; "" before `Equip`.
        self.successor_path = ""

    @property
    def orphaned(self) -> bool:
        """Whether there is no supervisor."""
        return self._channel is None

    def adopt(self, end: socket.socket, *, first: bool) -> None:
        """Use this channel from now on, and send Hello; on another than the *first* one, Held as well."""
        self._channel = Channel(end, decode_order)
        self._loop.add_reader(end.fileno(), self._on_readable)
        self.report(self._hello())
        if not first:
            # Before Held, which the adoption waits for: no counter of the node may seem to fall meanwhile.
            self.on_successor()
            for held, descriptors in self._held():
                self.report(held, descriptors)

    def report(self, report: Report, descriptors: Sequence[int] = ()) -> None:
        """Send *report*; without a supervisor it is dropped, as the next one gets all facts anew."""
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
        """Close the channel."""
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
            self._lost(f"it sent an invalid order: {error}")
            return
        if orders:
            self._alone_since_s = None
        for received in orders:
            self._obey(received)
        if channel.closed and self._channel is channel:
            self._lost("it closed the channel")

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
            # Never served: there are no connections, and no successor adopts this worker.
            log.warning("the supervisor is gone (%s) before this worker served: stopping", why)
            self._forget(self._channel)
            self._obey(Received(Stop(), []))
            return
        log.warning("the supervisor is gone (%s): continuing to serve, waiting for its successor", why)
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
            log.warning("drained, and no supervisor connected within %g s: stopping", ALONE_S)
            self._retry.cancel()
            self._obey(Received(Stop(), []))
            return
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.setblocking(False)
        try:
            end.connect(self.successor_path)
        except OSError:  # no supervisor yet, or its backlog is full: retried in a second
            end.close()
            return
        self._retry.cancel()
        log.info("a supervisor listens at %s: reporting to it", self.successor_path)
        self.adopt(end, first=False)
