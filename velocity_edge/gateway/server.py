"""The HTTP/1.1 side of the gateway: a request comes in, its answer goes out, both streamed; or 502, or 504.

Bodies pass chunk by chunk with back-pressure: a client that does not read stops the node, and the other way round. A
request without a body whose connection turns out to be dead before any answer is asked once more when its method is
idempotent. A client that goes away has its request reset. After the head was sent, a failure closes the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from velocity_edge.client.response import Response
from velocity_edge.errors import TimedOut, VelocityError
from velocity_edge.gateway.fields import looped, request_fields, response_fields
from velocity_edge.gateway.link import Link

log = logging.getLogger(__name__)

_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Of one read of a client's body.
_PIECE_BYTES: Final = 65_536


class _ClientFailed(Exception):
    """The client's body is no HTTP, or did not come to its end."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How requests are forwarded."""

    response_timeout_s: float = 30.0
    #: The node sees the client's Host in place of its own name.
    preserve_host: bool = False
    #: More at once are answered with 503.
    max_requests: int = 1024


class _Answer(web.StreamResponse):
    """A response with the node's fields only: aiohttp would add a type of the content and a name of the server."""

    async def _prepare_headers(self) -> None:
        own = {name for name in ("content-type", "server") if name not in self.headers}
        await super()._prepare_headers()
        for name in own:
            self.headers.popall(name, None)


class Gateway:
    """The handler of all requests."""

    def __init__(self, link: Link, rules: Rules) -> None:
        self._link = link
        self._rules = rules
        #: Requests now.
        self.running = 0
        #: No further request on a connection.
        self.stopping = False
        self._idle = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if self.running >= self._rules.max_requests:
            return _refusal(503, "too many requests at once")
        self.running += 1
        try:
            return await self._handle(request)
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no request runs."""
        while self.running:
            self._idle.clear()
            await self._idle.wait()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        received = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        target = request.raw_path
        if request.method == "CONNECT" or not (
            target.startswith("/") or (target == "*" and request.method == "OPTIONS")
        ):
            return _refusal(501 if request.method == "CONNECT" else 400, "this gateway is no forward proxy")
        if looped(received):
            return _refusal(508, "the request goes in a circle")
        fields = request_fields(received, request.remote or "unknown", request.headers.get("host", ""), "http")
        attempts = 2 if request.method in _IDEMPOTENT and not request.can_read_body else 1
        while True:
            attempts -= 1
            lease = self._link.lease()
            try:
                async with lease as connection:
                    try:
                        async with asyncio.timeout(self._rules.response_timeout_s):
                            response = await connection.request(
                                request.method,
                                target,
                                fields,
                                _body(request) if request.can_read_body else None,
                                authority=request.headers.get("host") if self._rules.preserve_host else None,
                            )
                    except TimeoutError:
                        lease.doubt()
                        raise TimedOut(f"no response within {self._rules.response_timeout_s:g} s") from None
                    try:
                        return await self._relay(request, response)
                    finally:
                        response.abandon()
            except _ClientFailed:
                return _refusal(400, "the body of the request is not complete")
            except VelocityError as error:
                if attempts and not isinstance(error, TimedOut):
                    continue
                status = 504 if isinstance(error, TimedOut) else 502
                log.warning("%s", error, extra={"status": status, "method": request.method})
                return _refusal(status, "the node does not answer")

    async def _relay(self, request: web.BaseRequest, response: Response) -> web.StreamResponse:
        fields = response_fields(response.headers)
        answer = _Answer(status=response.status)
        for name, value in fields:
            answer.headers.add(name, value)
        if self.stopping:
            answer.force_close()
        await answer.prepare(request)
        try:
            async for chunk in response:
                await answer.write(chunk)
            await answer.write_eof()
        except (VelocityError, ConnectionError) as error:
            if isinstance(error, VelocityError):
                log.warning("%s", error, extra={"status": response.status, "method": request.method})
            if request.transport is not None:
                request.transport.abort()  # the client must not take what it has for the whole
        return answer


async def _body(request: web.BaseRequest) -> AsyncIterator[bytes]:
    if request.headers.get("expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)
    try:
        async for chunk in request.content.iter_chunked(_PIECE_BYTES):
            yield chunk
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
        raise _ClientFailed from None


def _refusal(status: int, text: str) -> web.Response:
    answer = web.Response(status=status, text=f"cannot forward this request: {text}\n")
    if status == 400:
        answer.force_close()
    return answer
