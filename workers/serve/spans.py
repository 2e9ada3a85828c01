"""Export of spans to an OpenTelemetry collector: a bounded queue, one request at a time, never in the way of requests.

A collector that is slow or away costs spans, not latency: the queue holds `MAX_QUEUED`, further ones are dropped and
counted (velocity_trace_spans_total). After a failed export the next one waits for `PAUSE_S`; the spans of the failed
one are lost, because a collector that has taken half of them would have those twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from velocity_edge import __version__
from workers.measures import Measures
from workers.serve.otlp import export

log = logging.getLogger(__name__)

#: About 2 MiB of JSON.
MAX_QUEUED: Final = 2048
#: Spans per request to the collector.
MAX_BATCH: Final = 512
PAUSE_S: Final = 5.0

#: Sends a body to the collector and returns the status of the answer. Raises what `failures` names.
Send = Callable[[bytes], Awaitable[int]]


class SpanExporter:
    """The spans of one worker that are not exported yet."""

    def __init__(
        self,
        measures: Measures,
        start: Callable[[Coroutine[Any, Any, None]], object],
        now_s: Callable[[], float],
        instance: str,
    ) -> None:
        """*start* runs a coroutine as a task of the worker; *now_s* is monotonic; *instance* names this process."""
        self._start = start
        self._now_s = now_s
        self._instance = instance
        self._queue: deque[bytes] = deque()
        self._running = False
        self._not_before_s = 0.0
        self._failing = False
        #: How to reach the collector of the revision in use; None: there is none.
        self.send: Send | None = None
        name = "velocity_trace_spans_total"
        self._counts = {result: measures.counter(name, (result,)) for result in ("exported", "dropped", "failed")}

    def add(self, span: bytes) -> None:
        """Queue a span, or drop it."""
        if len(self._queue) >= MAX_QUEUED:
            self._counts["dropped"].add()
            return
        self._queue.append(span)
        if len(self._queue) >= MAX_BATCH:
            self.flush()

    def flush(self) -> None:
        """Export what is queued, if no export is under way. Called every second."""
        if self._queue and not self._running and self.send is not None and self._now_s() >= self._not_before_s:
            self._running = True
            self._start(self._export(self.send))

    async def _export(self, send: Send) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
                if not await self._exported(send, batch):
                    self._not_before_s = self._now_s() + PAUSE_S
                    return
        finally:
            self._running = False

    async def _exported(self, send: Send, batch: list[bytes]) -> bool:
        reason = ""
        try:
            status = await send(export(batch, __version__, self._instance))
            if not 200 <= status < 300:
                reason = f"status {status}"
        except Exception as error:  # whatever it is, requests must not notice
            reason = f"{type(error).__name__}: {error}"
        self._counts["failed" if reason else "exported"].add(len(batch))
        if reason and not self._failing:
            log.warning("cannot export %d spans: %s; trying again every %g s", len(batch), ascii(reason), PAUSE_S)
        elif self._failing and not reason:
            log.info("spans are exported again")
        self._failing = bool(reason)
        return not reason
