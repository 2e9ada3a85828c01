"""Active health checks: a request to one server, again and again, on a connection of its own.

What a result means is decided in health.py. The connection is kept between two checks if the server keeps it. The pause
varies by a tenth, so that the workers of a node, and its neighbours, do not ask at the same moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from velocity_edge.config.upstream_url import UpstreamUrl
from velocity_edge.http.upstreams import ForwardRequest, PoolSettings
from workers.proxy.client.answers import AttemptFailed
from workers.proxy.context import ProxyContext, UpstreamClient
from workers.proxy.health import ActiveRules

log = logging.getLogger(__name__)

#: Of an answer's body; the rest is not read.
_MAX_BODY_BYTES: Final = 65_536
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """`health.active` of a route."""

    path: str
    interval_s: float = 10.0
    timeout_s: float = 5.0
    #: Ranges of good statuses, both ends included.
    statuses: tuple[tuple[int, int], ...] = ((200, 399),)
    #: What the body contains; b"" for anything.
    body: bytes = b""
    host: str = ""
    rules: ActiveRules = field(default_factory=ActiveRules)

    def pool(self, settings: PoolSettings) -> PoolSettings:
        """Return the settings of the connection for checks of a server with these *settings*."""
        bound_ns = int(self.timeout_s * 1e9)
        return replace(
            settings,
            connect_timeout_ns=bound_ns,
            response_timeout_ns=bound_ns,
            idle_timeout_ns=bound_ns,
            keepalive_timeout_ns=min(settings.keepalive_timeout_ns, int(self.interval_s * 2e9)),
            max_connections=1,
            max_idle_connections=1,
        )


class Probe:
    """The checks of one server."""

    def __init__(
        self,
        rules: ProbeRules,
        url: UpstreamUrl,
        client: UpstreamClient,
        context: ProxyContext,
        on_result: Callable[[bool, str], None],
    ) -> None:
        """*on_result* gets each result, and of a bad one the reason."""
        self.client = client
        self._rules = rules
        self._context = context
        self._on_result = on_result
        self._request = ForwardRequest(
            b"GET",
            (url.base + rules.path).encode(),
            (rules.host or url.authority).encode(),
            ((b"user-agent", b"velocity-edge health check"), (b"accept", b"*/*")),
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Requires a running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="health check")

    def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
        self.client.close()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._rules.timeout_s):
                    reason = await self._check()
            except TimeoutError:
                reason = f"no answer within {self._rules.timeout_s:g} s"
            except AttemptFailed as failure:
                reason = failure.reason
            except Exception:
                log.exception("health check failed")
                reason = "the check itself failed (a bug; see the worker's log)"
            self._on_result(not reason, reason)
            spread = (2 * self._context.random() - 1) * _JITTER
            await asyncio.sleep(self._rules.interval_s * (1 + spread))

    async def _check(self) -> str:
        """Return what is wrong with the answer; "" for nothing."""
        response = await self.client.request(self._request)
        try:
            if not any(low <= response.status <= high for low, high in self._rules.statuses):
                return f"status {response.status}"
            read = bytearray()
            async for chunk in response.body:
                read += chunk
                if len(read) > _MAX_BODY_BYTES:
                    break
            if self._rules.body and self._rules.body not in read:
                return "the body does not contain the text"
            return ""
        finally:
            await response.aclose()
