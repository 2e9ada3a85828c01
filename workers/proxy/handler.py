"""The handler of a proxy: refuses what no upstream should see, and sends the rest to a server of its group.

Where the engine forwards by itself and no middleware around needs the body, it returns a `Forward`, which
workers/serve carries out with the same group. Otherwise it is a coroutine that asks by the Python client, chunk by
chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from velocity_edge.http.forwarded import TrustedProxies
from velocity_edge.http.requests import Outcome, UpstreamEnded
from velocity_edge.http.upstreams import ForwardRequest
from workers.body import BodyTooLarge
from workers.http import Answer, BodyCutShort, Forward, HeadEdit, Request, Response, plain
from workers.proxy.answers import answer_to
from workers.proxy.client.answers import Attempt, AttemptFailed, UpstreamResponse
from workers.proxy.context import ProxyContext
from workers.proxy.fields import Changes, FieldRules, Outgoing, climbs, target
from workers.proxy.group import Group, Member, Trip, Verdict

#: In place of "no limit": no body has so many bytes.
NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class RouteRules:
    """What a route adds to its group."""

    fields: FieldRules = field(default_factory=FieldRules)
    #: Changes of the response's head.
    edit: HeadEdit = field(default_factory=HeadEdit)
    max_body_bytes: int = NO_LIMIT
    websocket: bool = True
    trusted: TrustedProxies = field(default_factory=TrustedProxies)


class ProxyHandler:
    """A `Handler` for one route."""

    #: pipeline.py: it knows WebSocket.
    tunnels = True

    def __init__(self, group: Group, rules: RouteRules, context: ProxyContext, *, reads_body: bool = False) -> None:
        """*reads_body*: a middleware around it does (pipeline.py)."""
        self.group = group
        self._rules = rules
        self._context = context
        self._changes = Changes(rules.fields)
        self._in_python = reads_body

    def __call__(self, request: Request) -> Answer | Awaitable[Answer]:
        """Forward *request*, or refuse it at once."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if not request.id:
            request.id = self._context.new_id()
        if self._context.forwarding is not None and not self._in_python:
            return Forward(request, self, self._rules.edit)
        return self._ask(request)

    def outgoing(self, request: Request) -> Outgoing:
        """Return what changes in *request*, whichever server gets it."""
        trusted = request.peer is not None and self._rules.trusted.trusts(request.peer[0])
        return self._changes.of(request, trusted=trusted)

    def forward_request(self, request: Request, changed: Outgoing, member: Member, edit: HeadEdit) -> ForwardRequest:
        """Return the request as *member* gets it; *edit*: changes of the response's head."""
        server = member.server
        return ForwardRequest(
            request.method,
            target(changed.path, request.query, server.settings.url.base),
            changed.authority or server.authority,
            request.headers,
            changed.drop,
            changed.add,
            request.protocol,
            NO_LIMIT if request.protocol else self._max_body_bytes(request),
            tuple(edit.remove) if edit.remove else (),
            edit.set,
            edit.add + self.sticky(request, member) if self.group.settings.sticky else edit.add,
            edit.default,
        )

    def sticky(self, request: Request, member: Member) -> tuple[tuple[bytes, bytes], ...]:
        """Return the cookie that keeps the client with *member*, unless it has it."""
        name = self.group.settings.sticky
        if not name or b"%b=%b" % (name, member.cookie) in (request.header(b"cookie") or b""):
            return ()
        return ((b"set-cookie", b"%b=%b; Path=/; HttpOnly; Secure; SameSite=Lax" % (name, member.cookie)),)

    def _refusal(self, request: Request) -> Response | None:
        if request.protocol and (request.protocol != b"websocket" or not self._rules.websocket):
            return plain(501, "This protocol is not supported here.")
        if request.method in (b"CONNECT", b"TRACE") and not request.protocol:
            return plain(501)
        if not (request.path.isascii() and request.query.isascii()):
            return plain(400, "The path must be percent-encoded.")  # RFC 3986 section 2; servers differ in reading it
        if climbs(request.path):
            return plain(400, "The path must not contain '..' segments.")
        if b"," in request.authority:
            return plain(400)  # a name by RFC 3986, but servers and caches split there
        announced = None if request.body.complete else request.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced[:19]) > self._max_body_bytes(request):
            return plain(413)
        return None

    def _max_body_bytes(self, request: Request) -> int:
        own = request.body.max_bytes
        return self._rules.max_body_bytes if own is None else own

    # --- by the Python client ----------------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> Answer:
        trip = self.group.set_out(request)
        changed = self.outgoing(request)
        while True:
            member = await self._seat(trip)
            if isinstance(member, Response):
                return member
            begun_s = self._context.clock()
            forward = self.forward_request(request, changed, member, self._rules.edit)
            body = None if request.body.complete and not request.body.unread else request.body
            try:
                answer = await member.server.client().request(
                    forward, body, trailers=lambda: request.body.trailers, on_informational=request.inform
                )
            except AttemptFailed as failure:
                end = self._end(failure.outcome, failure.attempt, begun_s, 0, failure.reason)
            except ValueError:
                self.group.ended(trip, member, self._end(Outcome.CANCELLED, Attempt(), begun_s, 0, "not well formed"))
                return plain(400)
            except BodyTooLarge:
                end = self._end(Outcome.REQUEST_TOO_LARGE, Attempt(body_sent=True), begun_s, 0, "")
            except BaseException:
                self.group.ended(trip, member, self._end(Outcome.CLIENT_GONE, Attempt(), begun_s, 0, ""))
                raise
            else:
                return self._relayed(trip, member, answer, begun_s)
            verdict = self.group.ended(trip, member, end)
            if isinstance(verdict, Response):
                return verdict
            if verdict is Verdict.OVER:
                return answer_to(Outcome(end.outcome))

    async def _seat(self, trip: Trip) -> Member | Response:
        seat: asyncio.Future[Member | Response] = asyncio.get_running_loop().create_future()
        self.group.seat(trip, seat.set_result)
        try:
            return await seat
        except asyncio.CancelledError:
            self.group.give_up(trip)
            if seat.done() and not seat.cancelled() and isinstance(member := seat.result(), Member):
                self.group.ended(trip, member, self._end(Outcome.CLIENT_GONE, Attempt(), self._context.clock(), 0, ""))
            raise

    def _relayed(self, trip: Trip, member: Member, answer: UpstreamResponse, begun_s: float) -> Response:
        def over(outcome: Outcome, reason: str) -> None:
            self.group.ended(trip, member, self._end(outcome, answer.attempt, begun_s, answer.status, reason))

        return Response(
            answer.status, answer.headers, Relay(answer, member.name, over), trailers=lambda: answer.trailers
        )

    def _end(self, outcome: Outcome, attempt: Attempt, begun_s: float, status: int, reason: str) -> UpstreamEnded:
        return UpstreamEnded(
            -1,
            -1,
            outcome,
            status,
            status != 0,
            attempt.body_sent,
            attempt.reused,
            attempt.request_bytes,
            attempt.response_bytes,
            attempt.connect_ns,
            attempt.head_ns,
            int((self._context.clock() - begun_s) * 1e9),
            reason,
        )


class Relay:
    """The chunks of an upstream's body. *over* is called once: at the end, on failure, or when nobody reads it."""

    def __init__(self, answer: UpstreamResponse, name: str, over: Callable[[Outcome, str], None]) -> None:
        self._answer = answer
        self._name = name
        self._over: Callable[[Outcome, str], None] | None = over

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return itself: it can be read once."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk. Raises `BodyCutShort`."""
        try:
            return await anext(self._answer.body)
        except StopAsyncIteration:
            self._end(Outcome.COMPLETE, "")
            raise
        except AttemptFailed as failure:
            self._end(failure.outcome, failure.reason)
            raise BodyCutShort(f"upstream {self._name}: {failure.reason}") from None
        except BaseException:
            self._end(Outcome.CLIENT_GONE, "")
            raise

    async def aclose(self) -> None:
        """Abandon what has not been read."""
        self._end(Outcome.CLIENT_GONE, "")

    def _end(self, outcome: Outcome, reason: str) -> None:
        over, self._over = self._over, None
        if over is not None:
            if outcome is not Outcome.COMPLETE:
                self._answer.body.abort()
            over(outcome, reason)

    def __del__(self) -> None:
        self._end(Outcome.CLIENT_GONE, "")
