"""Requests that an engine forwards by itself (http/upstreams.py): attempts, retries, answers, and the end of each.

A proxy's handler returned a `Forward`. Its group chooses a server (workers/proxy/group.py), the engine does the rest
and tells the end of the attempt. Before the head of a response the request is still ours: it goes to another server, or
gets an answer of the node. Bytes of the request's body that came before the engine took over are handed to it.

A request is logged once, when nothing more happens to it. While it runs its exchange is open and its revision is in
use, so a drain waits for it and a reload closes nothing under it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from velocity_edge.errors import VelocityError
from velocity_edge.http.requests import BodyReceived, Outcome, RequestReceived, UpstreamEnded
from velocity_edge.http.upstreams import Forwarding
from workers.http import Forward, Response, body_length, plain
from workers.proxy.fields import Outgoing
from workers.proxy.group import Member, Trip, Verdict
from workers.proxy.handler import ProxyHandler
from workers.serve.accounts import CLIENT_GONE
from workers.serve.exchange import Exchange, OpenExchanges
from workers.serve.responses import Responses
from workers.serve.revision import Revision

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Job:
    """One request that is forwarded. `member` is the server of the attempt that runs; None between two."""

    exchange: Exchange
    event: RequestReceived
    revision: Revision
    forward: Forward
    trip: Trip
    changed: Outgoing
    started_s: float
    member: Member | None = None

    @property
    def route(self) -> ProxyHandler:
        """The handler that chose to forward."""
        route = self.forward.route
        assert isinstance(route, ProxyHandler)
        return route


#: Job, status, bytes of the body.
Done = Callable[[Job, int, int], None]


class Forwards:
    """The requests of one worker that its engine forwards."""

    def __init__(
        self,
        forwarding: Forwarding,
        exchanges: OpenExchanges,
        responses: Responses,
        flush_soon: Callable[[], None],
        done: Done,
    ) -> None:
        """*done* logs and counts a request when it is over."""
        self._forwarding = forwarding
        self._exchanges = exchanges
        self._responses = responses
        self._flush_soon = flush_soon
        self._done = done
        self._jobs: dict[int, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def start(
        self,
        exchange: Exchange,
        event: RequestReceived,
        revision: Revision,
        forward: Forward,
        started_s: float,
    ) -> None:
        """Begin with a request whose handler returned *forward*."""
        route = forward.route
        assert isinstance(route, ProxyHandler)
        request = forward.request
        trip = route.group.set_out(request)
        job = Job(exchange, event, revision, forward, trip, route.outgoing(request), started_s)
        self._jobs[event.stream] = job
        self._exchanges.by_stream[event.stream] = exchange
        exchange.forwarded = True
        revision.enter()
        route.group.seat(trip, lambda seat: self._seated(job, seat))

    def on_body(self, event: BodyReceived) -> bool:
        """Hand body bytes that became Python objects to the attempt that runs; False: there is none."""
        job = self._jobs.get(event.stream)
        if job is None or job.member is None:
            return False
        self._forwarding.feed(event.stream, event.data, event.fin, event.trailers)
        return True

    def on_ended(self, event: UpstreamEnded) -> None:
        """Take in the end of an attempt."""
        job = self._jobs.get(event.stream)
        if job is None or job.member is None:
            return
        self._ended(job, job.member, event)

    def on_stream_closed(self, stream: int) -> None:
        """The client is gone, or the whole answer was delivered."""
        job = self._jobs.pop(stream, None)
        if job is None:
            return
        if job.member is None:
            job.route.group.give_up(job.trip)
        else:  # the engine tells the end of an attempt before that of its stream; kept in order all the same
            job.route.group.ended(job.trip, job.member, gone(stream))
            job.member = None
        self._done(job, CLIENT_GONE, 0)
        job.revision.leave(None)

    def _seated(self, job: Job, seat: Member | Response) -> None:
        if isinstance(seat, Response):
            self._answer(job, seat)
            return
        stream = job.event.stream
        request = job.route.forward_request(job.forward.request, job.changed, seat, job.forward.edit)
        job.member = seat
        try:
            begun = self._forwarding.forward(seat.server.pool(self._forwarding), stream, request)
        except VelocityError as error:
            self._ended(job, seat, gone(stream, Outcome.CONNECT_FAILED, str(error)))
            return
        except ValueError as error:
            # The engine validates again what it writes; a middleware can have added what HTTP/1.1 cannot carry.
            log.warning("cannot forward a request of %s: %s", job.exchange.site or "no site", error)
            job.route.group.ended(job.trip, seat, gone(stream))
            job.member = None
            self._answer(job, plain(400))
            return
        if not begun:
            self._ended(job, seat, gone(stream))
            return
        body = job.exchange.body
        for chunk in body.hand_over():
            self._forwarding.feed(stream, chunk, False)
        if body.complete and not job.event.fin:
            self._forwarding.feed(stream, b"", True, body.trailers)
        self._flush_soon()

    def _ended(self, job: Job, member: Member, end: UpstreamEnded) -> None:
        job.member = None
        group = job.route.group
        verdict = group.ended(job.trip, member, end)
        if isinstance(verdict, Response):
            self._answer(job, verdict)
        elif verdict is Verdict.AGAIN:
            group.seat(job.trip, lambda seat: self._seated(job, seat))
        else:
            job.exchange.answered = end.head_sent
            self._over(job, end.status or CLIENT_GONE, end.response_bytes)

    def _answer(self, job: Job, response: Response) -> None:
        """Send an answer of the node."""
        response = response.edited(job.forward.edit)
        if job.event.method == b"HEAD":
            response = Response(response.status, response.headers)
        self._responses.send(job.exchange, response)
        self._flush_soon()
        self._over(job, response.status, body_length(response.body))

    def _over(self, job: Job, status: int, n_bytes: int) -> None:
        self._jobs.pop(job.event.stream, None)
        job.exchange.forwarded = False
        if job.exchange.answered:
            self._exchanges.finish(job.exchange)
        else:
            self._exchanges.by_stream.pop(job.event.stream, None)
        self._done(job, status, n_bytes)
        job.revision.leave(None)


def gone(stream: int, outcome: Outcome = Outcome.CLIENT_GONE, reason: str = "") -> UpstreamEnded:
    """Return the end of an attempt that an engine has not begun."""
    return UpstreamEnded(stream, -1, outcome, 0, False, False, False, 0, 0, 0, 0, 0, reason)
