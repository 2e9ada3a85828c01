"""What the network may read of the node, on `server.telemetry.metrics_listen`: no secret, no host name.

/metrics          Prometheus
/readyz  /livez   for load balancers and probes
/                 a page for a dashboard screen
/status.json      the status, without process ids and paths
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from aiohttp import web

from supervisor.admin.api import Admin
from supervisor.admin.describe import describe
from supervisor.machine import http_log
from supervisor.shell import Shell
from velocity_edge.errors import VelocityError
from velocity_edge.wire.messages import Listener

_PAGE: Final = files(__name__.rpartition(".")[0]).joinpath("page.html")
#: `left` has the names of sites; reasons are for operators only.
_PRIVATE: Final = ("pid", "runtime_dir", "reason", "left")


async def listen(admin: Admin, shell: Shell, address: Listener) -> tuple[web.AppRunner, Listener]:
    """Listen; return the runner and the bound address. Raises `VelocityError`."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(
            text=_PAGE.read_text(),
            content_type="text/html",
            headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'", "Cache-Control": "no-store"},
        )

    async def status(_: web.Request) -> web.Response:
        public = {name: value for name, value in describe(shell).items() if name not in _PRIVATE}
        if isinstance(drain := public["drain"], dict):
            public["drain"] = {name: value for name, value in drain.items() if name not in _PRIVATE}
        return web.json_response(public, headers={"Cache-Control": "no-store"})

    app = web.Application(client_max_size=1024)
    app.router.add_get("/", page)
    app.router.add_get("/status.json", status)
    app.router.add_get("/metrics", admin.metrics)
    app.router.add_get("/readyz", admin.readyz)
    app.router.add_get("/livez", admin.livez)
    runner = web.AppRunner(app, access_log=None, logger=http_log.log, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        await runner.cleanup()
        raise VelocityError(
            f"cannot listen on {address.host}:{address.port} (server.telemetry.metrics_listen): {error.strerror}"
        ) from None
    return runner, Listener(address.host, runner.addresses[0][1])
