"""Carrying out a move: what move.py wants is done to the engine's connections, until none holds an id of old keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from velocity_edge.http.requests import Requests
from workers.drain.drain_plan import Act
from workers.drain.move_plan import Ask, Move
from workers.http import H3_NO_ERROR
from workers.serve.serving import Serving

log = logging.getLogger(__name__)

_STEP_S: Final = 0.5


class Moving:
    """One move of one worker, from the order until nobody is left, or `stop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        serving: Serving,
        epochs: list[int],
        config_ids: Callable[[], Collection[int]],
        spread_s: float,
    ) -> None:
        """*config_ids*: which CID configurations are to be left, at this moment; none when there is no need for it."""
        self._loop = loop
        self._serving = serving
        #: Which epochs were to be left.
        self.epochs = epochs
        self._config_ids = config_ids
        self._timer: asyncio.TimerHandle | None = None
        self._move = Move(loop.time(), spread_s)
        self._step()

    @property
    def running(self) -> bool:
        """Whether somebody may still have to move."""
        return self._timer is not None

    def stop(self) -> None:
        """Do no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _step(self) -> None:
        self._timer = None
        engine: Requests = self._serving.engine
        established = self._serving.exchanges.connections
        held = set(engine.connections_on(self._config_ids()))
        if not held:
            log.info("no connection is left on the keys that were to be left")
            return
        self._timer = self._loop.call_later(_STEP_S, self._step)
        present = [
            (connection, requests, connection in established)
            for connection, _, requests in engine.connections()
            if connection in held
        ]
        for act, connection in self._move.step(self._loop.time(), present):
            match act:
                case Ask.RENAME:
                    if not engine.rename(connection):
                        self._move.cannot_rename(connection)
                case Act.WARN:
                    engine.goaway(connection, final=False)
                case Act.TELL:
                    engine.goaway(connection, final=True)
                case Act.CLOSE:
                    engine.close(connection, H3_NO_ERROR)
        self._serving.endpoint.flush_soon()
