"""What every kind of authentication does alike, around the question who the client is.

`identify` answers that question: with what is known about the client, or with the response that refuses it. Around it:
requests in 0-RTT are refused (425), because they may be replayed; required claims are checked (403); claims become
fields for the upstream (those of the client are removed on every route: strip.py); responses are private to the client
unless the handler said otherwise; every decision is counted.

A response is never shared between clients (`same_for_all`). A kind that cannot decide answers 503: a request never
passes because something failed.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from workers.http import Answer, HeadEdit, Headers, Request, Response, plain
from workers.measures import Measures
from workers.middleware.auth.claims import Claims, Scalar, UnusableClaim, fields_of, missing
from workers.pipeline import Handler, Middleware, then

log = logging.getLogger(__name__)

#: What this node answers itself about one client.
NO_STORE: Final = (b"cache-control", b"private, no-store")
_FAMILY: Final = "velocity_auth_total"
#: How long a client should wait when a provider or an authentication server does not answer.
RETRY_S: Final = 5
_PRIVATE: Final = HeadEdit(default=((b"cache-control", b"private"),))


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who the client is."""

    claims: Claims
    #: Changes of the response, such as a renewed cookie.
    edit: HeadEdit | None = None
    #: For the upstream, beside what `forward` makes of the claims.
    fields: Headers = ()
    #: Fields of the client that the upstream does not get: credentials that are for this node.
    drop: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The response instead, and what it counts as."""

    response: Response
    result: str


Verdict = Admitted | Refused


def own(status: int, text: str = "", *headers: tuple[bytes, bytes]) -> Response:
    """Return a response of this node about one client: no cache keeps it."""
    return plain(status, text, NO_STORE, *headers)


def to(request: Request, response: Response) -> Response:
    """Return *response* as an answer to *request*: without a body for HEAD (RFC 9110 section 9.3.2)."""
    return Response(response.status, response.headers) if request.method == b"HEAD" else response


def unavailable() -> Refused:
    """Return the verdict when the decision cannot be made now."""
    return Refused(own(503, "", (b"retry-after", b"%d" % RETRY_S)), "unavailable")


class Guard(Middleware):
    """Authentication by one definition of the configuration."""

    same_for_all = False

    def __init__(
        self,
        name: str,
        measures: Measures,
        *,
        required: Mapping[str, Sequence[Scalar]] | None = None,
        forward: Mapping[str, bytes] | None = None,
    ) -> None:
        """*name*: as in the configuration. *required*: claim -> permitted values; *forward*: claim -> field name."""
        self.name = name
        self._measures = measures
        self._required = required or {}
        self._forward = forward or {}

    @abstractmethod
    def identify(self, request: Request) -> Verdict | Awaitable[Verdict]:
        """Say who the client is, or refuse it."""

    def forbidden(self, request: Request, claim: str) -> Response:
        """Return the response to a client that is known but may not: it lacks *claim*."""
        return own(403, "You are signed in, and not permitted to see this.")

    def count(self, result: str) -> None:
        """Count one decision."""
        self._measures.count(_FAMILY, (self.name, result))

    def wrap(self, handler: Handler) -> Handler:
        """Return a handler that calls *handler* for clients that are known and permitted."""

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            if request.early:
                self.count("early")
                return to(request, own(425))
            verdict = self.identify(request)
            if isinstance(verdict, Admitted | Refused):
                return self._decided(request, verdict, handler)
            return _later(verdict, lambda found: self._decided(request, found, handler))

        return handle

    def _decided(self, request: Request, verdict: Verdict, handler: Handler) -> Answer | Awaitable[Answer]:
        if isinstance(verdict, Refused):
            self.count(verdict.result)
            return to(request, verdict.response)
        lacks = missing(verdict.claims, self._required)
        if lacks is not None:
            self.count("forbidden")
            return to(request, self.forbidden(request, lacks))
        try:
            fields = fields_of(verdict.claims, self._forward)
        except UnusableClaim as error:
            log.warning("middleware %s: %s: answered with 403", self.name, error)
            self.count("forbidden")
            return to(request, self.forbidden(request, ""))
        self.count("ok")
        request.claims = {**(request.claims or {}), **verdict.claims}
        request.upstream_drop.extend(verdict.drop)
        request.upstream_fields.extend(fields)
        request.upstream_fields.extend(verdict.fields)
        edit = _PRIVATE if verdict.edit is None else _PRIVATE.then(verdict.edit)
        return then(handler(request), lambda answer: answer.edited(edit))


async def _later(verdict: Awaitable[Verdict], decide: Callable[[Verdict], Answer | Awaitable[Answer]]) -> Answer:
    answer = decide(await verdict)
    return answer if isinstance(answer, Answer) else await answer
