"""A gateway from its start to its end: listens, answers, and stops without breaking what runs.

SIGTERM and SIGINT: it accepts no more connections, finishes requests for `grace_s`, then cuts them. A second signal
cuts them at once. What a request becomes is decided in server.py.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from velocity_edge.client.options import Options
from velocity_edge.errors import Unavailable
from velocity_edge.gateway.link import Link
from velocity_edge.gateway.server import Gateway, Rules

log = logging.getLogger(__name__)
#: Errors of clients are no events of the gateway, and their own log would have a traceback for each.
_quiet = logging.getLogger("velocity_edge.gateway.http")
_quiet.setLevel(logging.CRITICAL)
#: For aiohttp to close connections whose requests are cut.
_CUT_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a gateway listens, which node it asks, and its limits. `options.timeout_s` is the idle time-out."""

    host: str
    port: int
    upstream: str
    options: Options
    rules: Rules = field(default_factory=Rules)
    connect_timeout_s: float = 10.0
    grace_s: float = 10.0


async def run(settings: Settings, listening: Callable[[str, int], None]) -> None:
    """Serve until a signal. *listening* gets the bound address. Raises `Unavailable` when it cannot listen."""
    stop, at_once = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (at_once if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await serve(settings, listening, stop, at_once)


async def serve(
    settings: Settings, listening: Callable[[str, int], None], stop: asyncio.Event, at_once: asyncio.Event
) -> None:
    """Serve until *stop*, then finish what runs until *at_once*, or for the time of grace."""
    link = Link(settings.upstream, settings.options, settings.connect_timeout_s)
    gateway = Gateway(link, settings.rules)
    server = web.Server(
        gateway.handle,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        logger=_quiet,
        keepalive_timeout=75.0,
        max_line_size=16_384,
        max_field_size=16_384,
    )
    runner = web.ServerRunner(server, shutdown_timeout=_CUT_S)
    await runner.setup()
    try:
        try:
            site = web.TCPSite(runner, settings.host, settings.port)
            await site.start()
        except OSError as error:
            raise Unavailable(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
        listening(settings.host, runner.addresses[0][1])
        await stop.wait()
        await site.stop()
        gateway.stopping = True
        server.pre_shutdown()
        if gateway.running:
            log.info("stopping: %d requests run", gateway.running)
        ends = [asyncio.ensure_future(at_once.wait()), asyncio.ensure_future(gateway.idle())]
        await asyncio.wait(ends, timeout=settings.grace_s, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if gateway.running:
            log.warning("%d requests are cut", gateway.running)
    finally:
        await runner.cleanup()
        await link.close()
