"""Carrying out a drain: what drain.py wants is done to the engine's connections, every 100 ms, until nobody is left."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from typing import Final

from velocity_edge.http.requests import Requests
from velocity_edge.wire.messages import Left, OpenConnection
from workers.drain.drain_plan import Act, Drain
from workers.http import H3_NO_ERROR
from workers.serve.serving import Serving

log = logging.getLogger(__name__)

_STEP_S: Final = 0.1
#: Connections that are named while they are waited for. Who looks wants the last ones, not a list of thousands.
_NAMED: Final = 8
#: A name in a ClientHello has up to 65,535 bytes; one in the DNS, 253.
_MAX_SITE: Final = 253


class Leaving:
    """One drain of one worker, from the order until `stop`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, serving: Serving, drain: Drain, drained: Callable[[int, int], None]
    ) -> None:
        """*drained* is called once per order, with the numbers of requests lost and connections cut."""
        self._loop = loop
        self._serving = serving
        self._drained = drained
        self._timer: asyncio.TimerHandle | None = None
        self._reported = False
        self.drain = drain
        self._step()

    def renew(self, deadline_s: float, spread_s: float, *, discourage: bool) -> None:
        """Go on under another order."""
        self._reported = False
        self.drain.renew(self._loop.time(), deadline_s, spread_s, discourage=discourage)

    def left(self) -> Left:
        """Return what is left, with the oldest connections."""
        present = self._serving.engine.connections()
        oldest = heapq.nlargest(_NAMED, present, key=lambda row: row[1])
        site = self._serving.exchanges.connections.site
        return Left(
            len(self.drain.told),
            sum(requests for _, _, requests in present),
            [
                OpenConnection(site(connection)[:_MAX_SITE], age_ns / 1e9, requests)
                for connection, age_ns, requests in oldest
            ],
        )

    def stop(self) -> None:
        """Do no more: resumed, or stopped."""
        if self._timer is not None:
            self._timer.cancel()
        self._serving.upcalls.admission.accepting = True

    def _step(self) -> None:
        self._timer = self._loop.call_later(_STEP_S, self._step)
        now_s = self._loop.time()
        engine: Requests = self._serving.engine
        established = self._serving.exchanges.connections
        present = [
            (connection, requests, connection in established) for connection, _, requests in engine.connections()
        ]
        cut, lost = self.drain.cut, self.drain.lost
        acts = self.drain.step(now_s, present)
        self._serving.count_losses("drain", self.drain.cut - cut, self.drain.lost - lost)
        for act, connection in acts:
            match act:
                case Act.WARN:
                    engine.goaway(connection, final=False)
                case Act.TELL:
                    engine.goaway(connection, final=True)
                case Act.CLOSE:
                    engine.close(connection, H3_NO_ERROR)
        self._serving.upcalls.admission.accepting = self.drain.accepts(now_s)
        self._serving.endpoint.flush_soon()
        if self.drain.over and not self._reported:
            self._reported = True
            log.info("drained, %d requests lost, %d connections cut", self.drain.lost, self.drain.cut)
            self._drained(self.drain.lost, self.drain.cut)
