"""The admin API: HTTP/1.1 on `<runtime>/admin.sock`, for the command line, for scripts and for `curl --unix-socket`.

    GET   /v1/status  the node (velocity_edge/status/document.py)       /v1/workers  only them   /v1/connections  who is
    left
          /v1/readyz  200 when clients should come, else 503   /v1/livez    200
          /v1/metrics Prometheus                               /v1/config   the resolved configuration
          /v1/tickets the epochs of the keys, no key
    POST  /v1/quiesce {mode, announce_s, spread_s, deadline_s, wait, below, timeout_s}
          /v1/drain   {settle_s, settle_below_per_s, announce_max_s, spread_s, max_wait_s, attach, dry_run}
          /v1/resume   /v1/restart {worker_id | core, dry_run}   /v1/reload   /v1/upgrade   /v1/abort {age_s}
          /v1/scale {workers}   /v1/stop {fast}: answers when it has stopped   and {reason} with each
          /v1/tickets/rotate {move, spread_s, timeout_s}
          /v1/tickets/expire {all | older_than_s | epoch, spread_s, timeout_s}
          /v1/tickets/export   /v1/tickets/import {document, replace, timeout_s}: keys in plain, kept out of the log

A POST answers with lines of JSON (NDJSON) while it is at work: {"text": ...} for each thing that happens, and last
{"ok": true | false, "text": ..., "exit_code": n} with the exit codes of design 6. What can never be is an error before
anything has begun: {"error": "cannot ..."} with 400 (nonsense), 403 (not you), 409 (refused), 412 (If-Match). A GET
never changes anything: a POST-only path answers it with 405.

Who may: the socket is 0660. The supervisor's user and root may everything; members of its group may all but stop, abort
and the keys. Every POST is written to the audit log: who, what, how it ended (and that it has begun, when it lasts).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from supervisor.admin.describe import describe, describe_left
from supervisor.admin.fields import Line, Nonsense
from supervisor.admin.leaving import Departures
from supervisor.admin.operations import Operations
from supervisor.admin.tickets import TicketOperations, told
from supervisor.chores.rotation import Rotation
from supervisor.chores.upkeep import Upkeep
from supervisor.machine import http_log
from supervisor.machine.kept import Trouble
from supervisor.shell import Shell
from velocity_edge.errors import CannotDo, ConfigError, VelocityError
from velocity_edge.status import metrics

log = logging.getLogger("supervisor")

_MAX_BODY_BYTES: Final = 65_536
_MAX_AUDIT_BYTES: Final = 8 * 1024 * 1024
#: Group members may not do these.
_OWNER_ONLY: Final = {
    "/v1/stop",
    "/v1/upgrade",
    "/v1/abort",
    "/v1/tickets/rotate",
    "/v1/tickets/expire",
    "/v1/tickets/export",
    "/v1/tickets/import",
}
#: Fields of a body that must not get into the audit log: keys.
_SECRET: Final = {"document"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of the socket (SO_PEERCRED: the kernel says so)."""

    pid: int
    uid: int
    gid: int


class Admin:
    """The API of one node."""

    def __init__(self, shell: Shell, upkeep: Upkeep) -> None:
        self._shell = shell
        self._changes = 0
        operations, departures = Operations(shell, upkeep), Departures(shell)
        self._keys = TicketOperations(shell, Rotation(shell))
        self._audited = shell.troubles.setdefault("audit", Trouble("what operators ask is in the log only"))
        self.app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_errors, self._while_open])
        get, post = self.app.router.add_get, self._add_post
        get("/v1/status", self._status)
        get("/v1/workers", self._workers)
        get("/v1/connections", self._connections)
        get("/v1/config", self._config)
        get("/v1/readyz", self.readyz)
        get("/v1/livez", self.livez)
        get("/v1/metrics", self.metrics)
        post("/v1/quiesce", departures.quiesce)
        post("/v1/drain", departures.drain)
        post("/v1/resume", departures.resume)
        post("/v1/restart", operations.restart)
        post("/v1/reload", operations.reload)
        post("/v1/upgrade", operations.upgrade)
        post("/v1/abort", operations.abort)
        post("/v1/scale", operations.scale)
        get("/v1/tickets", self._tickets)
        post("/v1/tickets/rotate", told(self._keys.rotate))
        post("/v1/tickets/expire", told(self._keys.expire))
        post("/v1/tickets/export", told(self._keys.export))
        post("/v1/tickets/import", told(self._keys.merge))
        post("/v1/stop", operations.stop)

    @web.middleware
    async def _while_open(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """When the node has stopped, and its last answers are on their way, there is nothing left to look at."""
        if self._shell.closed:
            raise web.HTTPServiceUnavailable(text="cannot answer: the node has stopped")
        return await handler(request)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(describe(self._shell), headers={"ETag": self._etag})

    async def _tickets(self, _: web.Request) -> web.Response:
        return web.json_response(self._keys.rows())

    async def _workers(self, _: web.Request) -> web.Response:
        return web.json_response(describe(self._shell)["workers"])

    async def _connections(self, _: web.Request) -> web.Response:
        """Answer who is there: counts, and the oldest connections of workers that drain."""
        workers = describe(self._shell)["workers"]
        names = ("worker_id", "state", "connections", "half_open")
        by_worker = [{name: worker[name] for name in names} for worker in workers]  # type: ignore[literal-required]
        total = sum(worker["connections"] for worker in workers)
        left = describe_left(self._shell)
        return web.json_response({"connections": total, "workers": by_worker, "left": left})

    async def _config(self, _: web.Request) -> web.Response:
        return web.json_response(self._shell.active.config.to_json(), headers={"ETag": self._etag})

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer a load balancer: send clients here?"""
        node = self._shell.node
        return web.Response(status=200 if node.ready else 503, text=f"{node.state}\n")

    async def livez(self, _: web.Request) -> web.Response:
        """Answer whoever would restart us: the loop turns."""
        return web.Response(text="alive\n")

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer Prometheus."""
        shell = self._shell
        page = metrics.exposition(describe(shell), ready=shell.node.ready, socket_drops=shell.slots.drops())
        return web.Response(body=page, headers={"Content-Type": metrics.CONTENT_TYPE})

    @property
    def _etag(self) -> str:
        return f'"{self._shell.node.revision}-{self._changes}"'

    # --- changing -----------------------------------------------------------------------------------------------------

    def _add_post(self, path: str, work: Callable[[Line], AsyncIterator[Line]]) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, work)

        self.app.router.add_post(path, handler)

    async def _answer(self, request: web.Request, work: Callable[[Line], AsyncIterator[Line]]) -> web.StreamResponse:
        caller = peer(request)
        body = await _body(request)
        ours = os.geteuid()
        if caller.uid not in (0, ours) and request.path in _OWNER_ONLY:
            self._audit(caller, request.path, body, "denied")
            raise web.HTTPForbidden(text=f"cannot do this as user {caller.uid}: root or user {ours} may")
        match = request.headers.get("If-Match")
        if match not in (None, "*", self._etag):
            raise web.HTTPPreconditionFailed(text=f"cannot do this: the node has changed since, it is at {self._etag}")
        lines = work(body)
        outcome = "cut off"
        try:
            # The first line comes when the node has agreed; a refusal is still an HTTP status.
            first = await anext(lines)
            self._changes += 1
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await response.prepare(request)
            await response.write(_ndjson(first))
            outcome = str(first.get("text", ""))
            if "exit_code" not in first:
                # It may take a quarter of an hour, and we may be killed meanwhile.
                self._audit(caller, request.path, body, f"begun: {outcome}")
            async for line in lines:
                await response.write(_ndjson(line))
                outcome = str(line.get("text", ""))
        except ConnectionError:
            # Whoever asked has left. What was begun goes on; its end is in the log.
            outcome = f"{outcome} (nobody listens any more)"
        except VelocityError as error:
            outcome = str(error)
            raise
        finally:
            self._audit(caller, request.path, body, outcome)
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response

    def _audit(self, caller: Caller, path: str, body: Line, outcome: str) -> None:
        """Add a line to the audit log; when it is full, one old file is kept."""
        file = self._shell.places.state / "audit.log"
        record = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "uid": caller.uid,
            "pid": caller.pid,
            "request": path,
            "body": {name: "(not logged)" if name in _SECRET else value for name, value in body.items()},
            "outcome": outcome,
        }
        log.info("%s by user %d: %s", path, caller.uid, outcome)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab") as stream:
                stream.write(_ndjson(record))
                full = stream.tell() > _MAX_AUDIT_BYTES
            if full:
                file.replace(file.with_suffix(".log.1"))
        except OSError as error:
            self._audited.begins(f"cannot write {file}: {error.strerror}")
        else:
            self._audited.ends(f"write {file}")


def peer(request: web.Request) -> Caller:
    """Return who asks."""
    assert request.transport is not None
    sock: socket.socket = request.transport.get_extra_info("socket")
    return Caller(*struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Make every refusal {"error": "cannot ..."}."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        text = error.text or f"cannot answer {request.method} {request.path}: {error.reason}"
        if isinstance(error, web.HTTPMethodNotAllowed):
            text = f"cannot {request.method} {request.path}: {', '.join(sorted(error.allowed_methods))} would be right"
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return web.json_response({"error": text}, status=error.status, headers=headers)
    except Nonsense as error:
        return web.json_response({"error": f"cannot understand {error}"}, status=400)
    except (CannotDo, ConfigError) as error:
        return web.json_response({"error": str(error)}, status=409)
    except VelocityError as error:
        return web.json_response({"error": str(error)}, status=500)


async def _body(request: web.Request) -> Line:
    try:
        data = await request.read()
    except http_log.THEIRS:
        raise Nonsense("the body: it is not whole, or not encoded as it says") from None
    if not data:
        return {}
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Nonsense("the body: a JSON object would be right")
    return body


def _ndjson(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"
