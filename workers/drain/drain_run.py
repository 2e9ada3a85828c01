"""Executes a drain: applies the plan (drain_plan.py) to the connections every 100 ms until none is left."""

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
from workers.serve.connections import Connections

log = logging.getLogger(__name__)

_STEP_S: Final = 0.1
#: Connections that are reported in detail: the oldest ones. A list of thousands would be useless.
_REPORTED: Final = 8
#: A name in a ClientHello may have 65,535 bytes; one in the DNS has 253 at most.
_MAX_SITE: Final = 253


class DrainRun:
    """One drain of one worker, from the order until `stop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        requests: Requests,
        connections: Connections,
        plan: Drain,
        *,
        accept: Callable[[bool], None],
        count_losses: Callable[[int, int], None],
        drained: Callable[[int, int], None],
        flush_soon: Callable[[], None],
    ) -> None:
        """*accept* permits new connections or not. *flush_soon* has packets sent after this turn of the loop.

        *count_losses* is called with connections that were cut and requests that were lost, as they occur. *drained* is
        called once per order, with the totals of requests and connections.
        """
        self._loop = loop
        self._requests = requests
        self._connections = connections
        self._accept = accept
        self._count_losses = count_losses
        self._drained = drained
        self._flush_soon = flush_soon
        self._timer: asyncio.TimerHandle | None = None
        self._reported = False
        self.plan = plan
        self._step()

    def renew(self, deadline_s: float, spread_s: float, *, discourage: bool) -> None:
        """Continue with another order."""
        self._reported = False
        self.plan.renew(self._loop.time(), deadline_s, spread_s, discourage=discourage)

    def left(self) -> Left:
        """Return what is left, with the oldest connections."""
        present = self._requests.connections()
        oldest = heapq.nlargest(_REPORTED, present, key=lambda row: row[1])
        return Left(
            len(self.plan.told),
            sum(requests for _, _, requests in present),
            [
                OpenConnection(self._connections.site(connection)[:_MAX_SITE], age_ns / 1e9, requests)
                for connection, age_ns, requests in oldest
            ],
        )

    def stop(self) -> None:
        """End the drain: it was resumed, or the worker stops."""
        if self._timer is not None:
            self._timer.cancel()
        self._accept(True)

    def _step(self) -> None:
        self._timer = self._loop.call_later(_STEP_S, self._step)
        now_s = self._loop.time()
        plan = self.plan
        present = [
            (connection, requests, connection in self._connections)
            for connection, _, requests in self._requests.connections()
        ]
        cut, lost = plan.cut, plan.lost
        acts = plan.step(now_s, present)
        self._count_losses(plan.cut - cut, plan.lost - lost)
        for act, connection in acts:
            act_on(self._requests, act, connection)
        self._accept(plan.accepts(now_s))
        self._flush_soon()
        if plan.over and not self._reported:
            self._reported = True
            log.info("drained, %d requests lost, %d connections cut", plan.lost, plan.cut)
            self._drained(plan.lost, plan.cut)


def act_on(requests: Requests, act: Act, connection: int) -> None:
    """Apply one act of a plan to a connection."""
    match act:
        case Act.WARN:
            requests.goaway(connection, final=False)
        case Act.TELL:
            requests.goaway(connection, final=True)
        case Act.CLOSE:
            requests.close(connection, H3_NO_ERROR)
