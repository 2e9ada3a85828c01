"""The admin API: HTTP/1.1 on `<runtime>/admin.sock`, for the command line, for scripts and for `curl --unix-socket`.

    GET   /v1/status       the status document (velocity_edge/status/document.py)
          /v1/workers      its workers
          /v1/connections  connections by worker, and the oldest that drains wait for
          /v1/readyz       200 when the node takes new clients, else 503
          /v1/livez        200
          /v1/metrics      Prometheus
          /v1/history      the last hour in steps of 10 s; ?after=T: what came after (seconds since 1970)
          /v1/config       the resolved configuration
          /v1/tickets      the epochs of the keys, no key
    POST  /v1/VERB         the verbs of velocity_edge/admin/verbs.py; the body has the fields of the verb's request
                           (velocity_edge/admin/requests.py), and `reason` with each

A POST answers with lines of JSON (NDJSON) while the node works: {"text": ...} for each event, and last {"ok": true |
false, "text": ..., "exit_code": n}. An error before anything has begun is {"error": "cannot ..."} with 400 (not
understood), 403 (not permitted), 409 (refused) or 412 (If-Match). A GET changes nothing; to a path that needs a POST it
gets 405.

Permissions: the socket has mode 0660. The supervisor's user and root may do everything; members of its group may not
use the verbs that the table marks `owner_only`. Every POST is written to the audit log (audit.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from supervisor.admin.audit import Audit, Caller
from supervisor.admin.describe import describe, describe_left
from supervisor.admin.describe_keys import describe_keys
from supervisor.admin.service import Service
from supervisor.machine import http_log
from supervisor.shell import Shell
from velocity_edge.admin.answers import Answer
from velocity_edge.admin.json_form import answer_line, parse_request
from velocity_edge.admin.requests import BadRequest
from velocity_edge.admin.verbs import VERBS, Verb
from velocity_edge.errors import CannotDo, ConfigError, VelocityError
from velocity_edge.status import metrics

_MAX_BODY_BYTES: Final = 65_536
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """The API of one node."""

    def __init__(self, shell: Shell, service: Service) -> None:
        self._shell = shell
        self._service = service
        self._audit = Audit(shell.places.state, shell.troubles)
        self._changes = 0
        self.app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_errors, self._while_open])
        get = self.app.router.add_get
        get("/v1/status", self._status)
        get("/v1/workers", self._workers)
        get("/v1/connections", self._connections)
        get("/v1/config", self._config)
        get("/v1/readyz", self.readyz)
        get("/v1/livez", self.livez)
        get("/v1/metrics", self.metrics)
        get("/v1/history", self.history)
        get("/v1/tickets", self._tickets)
        for verb in VERBS:
            self.app.router.add_post(verb.path, self._post(verb))

    @web.middleware
    async def _while_open(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse requests after the node has stopped, while its last answers are sent."""
        if self._shell.closed:
            raise web.HTTPServiceUnavailable(text="cannot answer: the node has stopped")
        return await handler(request)

    # --- GET -------------------------------------------------------------------------------------------------------

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(describe(self._shell), headers={"ETag": self._etag})

    async def _tickets(self, _: web.Request) -> web.Response:
        return web.json_response(describe_keys(self._shell))

    async def _workers(self, _: web.Request) -> web.Response:
        return web.json_response(describe(self._shell)["workers"])

    async def _connections(self, _: web.Request) -> web.Response:
        workers = describe(self._shell)["workers"]
        names = ("worker_id", "state", "connections", "half_open")
        by_worker = [{name: worker[name] for name in names} for worker in workers]  # type: ignore[literal-required]
        total = sum(worker["connections"] for worker in workers)
        left = describe_left(self._shell)
        return web.json_response({"connections": total, "workers": by_worker, "left": left})

    async def _config(self, _: web.Request) -> web.Response:
        return web.json_response(self._shell.active.config.to_json(), headers={"ETag": self._etag})

    async def readyz(self, _: web.Request) -> web.Response:
        """Tell a load balancer whether the node takes new clients."""
        node = self._shell.node
        return web.Response(status=200 if node.ready else 503, text=f"{node.state}\n")

    async def livez(self, _: web.Request) -> web.Response:
        """Tell a service manager that the event loop runs."""
        return web.Response(text="alive\n")

    async def metrics(self, _: web.Request) -> web.Response:
        """Return the page for Prometheus."""
        shell = self._shell
        page = metrics.exposition(
            describe(shell),
            ready=shell.node.ready,
            socket_drops=shell.slots.drops(),
            measured=shell.sums.table(),
        )
        return web.Response(body=page, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def history(self, request: web.Request) -> web.Response:
        """Return the samples of the last hour, or those after a moment."""
        try:
            after_s = float(request.query.get("after", "0"))
        except ValueError:
            raise BadRequest("cannot understand after: expected seconds since 1970") from None
        return web.json_response(self._shell.history.document(after_s), headers={"Cache-Control": "no-store"})

    @property
    def _etag(self) -> str:
        return f'"{self._shell.node.revision}-{self._changes}"'

    # --- POST ------------------------------------------------------------------------------------------------------

    def _post(self, verb: Verb) -> _Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, verb)

        return handler

    async def _answer(self, request: web.Request, verb: Verb) -> web.StreamResponse:
        caller = peer(request)
        body = await _body(request)
        ours = os.geteuid()
        if verb.owner_only and caller.uid not in (0, ours):
            self._audit.record(caller, verb.path, body, "denied", verb.secret)
            raise web.HTTPForbidden(text=f"cannot do this as user {caller.uid}: root or user {ours} may")
        match = request.headers.get("If-Match")
        if match not in (None, "*", self._etag):
            raise web.HTTPPreconditionFailed(text=f"cannot do this: the node has changed since, it is at {self._etag}")
        outcome = "cut off"
        try:
            lines = self._service.answer(parse_request(verb.request, body))
            # The first line comes when the node has agreed; a refusal is still an HTTP status.
            first = await anext(lines)
            self._changes += 1
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await response.prepare(request)
            await response.write(_ndjson(first))
            outcome = first.text
            if first.exit_code is None:
                # It may take a quarter of an hour, and the supervisor may be killed meanwhile.
                self._audit.record(caller, verb.path, body, f"begun: {outcome}", verb.secret)
            async for line in lines:
                await response.write(_ndjson(line))
                outcome = line.text
        except ConnectionError:
            # The client has disconnected. The operation goes on; its end is in the log.
            outcome = f"{outcome} (the client disconnected)"
        except VelocityError as error:
            outcome = str(error)
            raise
        finally:
            self._audit.record(caller, verb.path, body, outcome, verb.secret)
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response


def peer(request: web.Request) -> Caller:
    """Return the process that sent *request*."""
    assert request.transport is not None
    sock: socket.socket = request.transport.get_extra_info("socket")
    return Caller(*struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer every refusal with {"error": "cannot ..."}."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        text = error.text or f"cannot answer {request.method} {request.path}: {error.reason}"
        if isinstance(error, web.HTTPMethodNotAllowed):
            text = f"cannot {request.method} {request.path}: expected {', '.join(sorted(error.allowed_methods))}"
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return web.json_response({"error": text}, status=error.status, headers=headers)
    except BadRequest as error:
        return web.json_response({"error": str(error)}, status=400)
    except (CannotDo, ConfigError) as error:
        return web.json_response({"error": str(error)}, status=409)
    except VelocityError as error:
        return web.json_response({"error": str(error)}, status=500)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        data = await request.read()
    except http_log.PEER_ERRORS:
        raise BadRequest("cannot understand the body: it is incomplete, or not encoded as its headers say") from None
    if not data:
        return {}
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadRequest("cannot understand the body: expected a JSON object")
    return body


def _ndjson(answer: Answer) -> bytes:
    return json.dumps(answer_line(answer)).encode() + b"\n"
