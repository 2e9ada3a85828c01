"""Carrying out a drain: what drain.py wants is done to the engine's connections, every 100 ms, until nobody is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from workers.drain import Act, Drain
from workers.http import H3_NO_ERROR
from workers.serving import Serving

log = logging.getLogger(__name__)

_STEP_S: Final = 0.1


class Leaving:
    """One drain of one worker, from the order until `stop`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, serving: Serving, drain: Drain, drained: Callable[[int], None]
    ) -> None:
        """*drained* is called once, with the number of connections that were lost."""
        self._loop = loop
        self._serving = serving
        self._drained = drained
        self._timer: asyncio.TimerHandle | None = None
        self._reported = False
        self.drain = drain
        self._step()

    def stop(self) -> None:
        """Do no more: resumed, replaced by another drain, or stopped."""
        if self._timer is not None:
            self._timer.cancel()
        self._serving.upcalls.admission.accepting = True

    def _step(self) -> None:
        self._timer = self._loop.call_later(_STEP_S, self._step)
        now_s = self._loop.time()
        engine, exchanges = self._serving.engine, self._serving.exchanges
        present = [
            (connection, requests, exchanges.is_established(connection))
            for connection, _, requests in engine.connections()
        ]
        for act, connection in self.drain.step(now_s, present):
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
            log.info("drained, %d lost", self.drain.lost)
            self._drained(self.drain.lost)
