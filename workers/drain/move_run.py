"""Executes a move: applies the plan (move_plan.py) to the connections until none has a connection ID of old keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from velocity_edge.http.requests import Requests
from workers.drain.drain_run import act_on
from workers.drain.move_plan import Ask, Move
from workers.serve.connections import Connections

log = logging.getLogger(__name__)

_STEP_S: Final = 0.5


class MoveRun:
    """One move of one worker, from the order until no connection is left, or `stop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        requests: Requests,
        connections: Connections,
        epochs: list[int],
        config_ids: Callable[[], Collection[int]],
        spread_s: float,
        *,
        flush_soon: Callable[[], None],
    ) -> None:
        """*config_ids* returns the CID configurations to move away from, at this moment; none when it is not needed.

        *flush_soon* has packets sent after this turn of the loop.
        """
        self._loop = loop
        self._requests = requests
        self._connections = connections
        #: The epochs to move away from.
        self.epochs = epochs
        self._config_ids = config_ids
        self._flush_soon = flush_soon
        self._timer: asyncio.TimerHandle | None = None
        self._plan = Move(loop.time(), spread_s)
        self._step()

    @property
    def running(self) -> bool:
        """Whether connections may still have to move."""
        return self._timer is not None

    def stop(self) -> None:
        """End the move."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _step(self) -> None:
        self._timer = None
        held = set(self._requests.connections_on(self._config_ids()))
        if not held:
            log.info("no connection has a connection ID of the old keys any more")
            return
        self._timer = self._loop.call_later(_STEP_S, self._step)
        present = [
            (connection, requests, connection in self._connections)
            for connection, _, requests in self._requests.connections()
            if connection in held
        ]
        for act, connection in self._plan.step(self._loop.time(), present):
            if isinstance(act, Ask):
                if not self._requests.rename(connection):
                    self._plan.cannot_rename(connection)
            else:
                act_on(self._requests, act, connection)
        self._flush_soon()
