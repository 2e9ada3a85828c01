"""What the network may read of the node, on `server.telemetry.metrics_listen`: no secret, no host name.

/metrics          Prometheus
/readyz  /livez   for load balancers and probes
/                 a page for a dashboard screen
/status.json      the status, without process ids and paths
/history.json     the last hour, as GET /v1/history of the admin API
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from supervisor.admin.api import Admin
from supervisor.admin.describe import describe
from supervisor.machine import http_log
from supervisor.shell import Shell
from velocity_edge.admin.requests import BadRequest
from velocity_edge.errors import VelocityError
from velocity_edge.status.document import NodeStatus
from velocity_edge.wire.messages import Listener

PAGE: Final = files(__name__.rpartition(".")[0]).joinpath("page.html").read_text()


def _hash_of(element: str) -> str:
    """Return the source expression that permits the page's one element of this kind (CSP level 2, section 4.2.4)."""
    text = PAGE.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: Nothing is loaded but the page's own data, and no other site shows it in a frame.
PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
#: `left` has the names of sites; reasons are for operators only.
_PRIVATE: Final = ("pid", "runtime_dir", "reason", "left")


def _public(status: NodeStatus) -> dict[str, Any]:
    """Return what the network may see of *status*."""
    public: dict[str, Any] = {name: value for name, value in status.items() if name not in _PRIVATE}
    if status["drain"]:
        public["drain"] = {name: value for name, value in status["drain"].items() if name not in _PRIVATE}
    public["workers"] = [
        {name: value for name, value in worker.items() if name not in _PRIVATE} for worker in status["workers"]
    ]
    public["keys"] = {name: value for name, value in status["keys"].items() if name != "storage"}
    return public


async def listen(admin: Admin, shell: Shell, address: Listener) -> tuple[web.AppRunner, Listener]:
    """Listen; return the runner and the bound address. Raises `VelocityError`."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html", headers=PAGE_HEADERS)

    async def status(_: web.Request) -> web.Response:
        return web.json_response(_public(describe(shell)), headers={"Cache-Control": "no-store"})

    async def history(request: web.Request) -> web.Response:
        try:
            return await admin.history(request)
        except BadRequest as error:
            raise web.HTTPBadRequest(text=str(error)) from None

    app = web.Application(client_max_size=1024)
    app.router.add_get("/", page)
    app.router.add_get("/status.json", status)
    app.router.add_get("/history.json", history)
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
