"""`kind: forward_auth`: another server is asked about each request, without its body, and its answer is never kept.

It gets the fields of the request but those of the connection, the body and a proxy, and X-Forwarded-* about the request
itself; those of the client are not passed on, since it could claim anything in them. A status that the configuration
trusts lets the request pass; any other answer below 500 is the client's. No answer, or a 5xx, is a 503.
"""

from __future__ import annotations

import logging
from typing import Final

from velocity_edge.config.middlewares.forward_auth import ForwardAuth
from velocity_edge.http.forwarded import address_text
from workers.http import Headers, Request, Response
from workers.measures import Measures
from workers.middleware.auth.claims import MAX_FIELD_BYTES
from workers.middleware.auth.document import Unavailable
from workers.middleware.auth.fetching import Fetch
from workers.middleware.auth.guard import NO_STORE, Admitted, Guard, Refused, Verdict, own, unavailable

log = logging.getLogger(__name__)

#: An answer to a person: a login page at most.
MAX_BYTES: Final = 64 * 1024
#: Of the connection (RFC 9110 section 7.6.1), of the body that is not sent, and what only this node may say.
_NOT_ASKED: Final = frozenset(
    b"connection content-encoding content-length content-type expect forwarded host keep-alive proxy-authorization "
    b"proxy-connection range te trailer transfer-encoding upgrade x-forwarded-for x-forwarded-host x-forwarded-method "
    b"x-forwarded-proto x-forwarded-uri x-real-ip x-original-url x-original-uri x-original-method accept-encoding "
    b"if-match if-none-match if-modified-since if-unmodified-since if-range".split()
)
#: Of the answer, what the client does not get: framing is done anew.
_NOT_ANSWERED: Final = frozenset(
    b"connection content-length keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding "
    b"upgrade alt-svc date server cache-control".split()
)


class ForwardAuthGuard(Guard):
    """Admits requests that another server lets pass."""

    def __init__(self, section: ForwardAuth, measures: Measures, fetch: Fetch) -> None:
        super().__init__(section.name, measures)
        self._url = section.url
        self._trusted = frozenset(section.trust or range(200, 300))
        self._copied = frozenset(name.encode() for name in section.copy_fields)
        self._fetch = fetch
        self._failing = ""

    async def identify(self, request: Request) -> Verdict:
        """Ask the server."""
        try:
            fetched = await self._fetch(self._url, headers=question(request))
        except Unavailable as error:
            self.note(str(error))
            return unavailable()
        if fetched.status in self._trusted:
            fields = [(name, value) for name, value in fetched.headers if name in self._copied]
            if any(len(value) > MAX_FIELD_BYTES for _, value in fields):
                self.note("its answer has a field that is too long")
                return unavailable()
            self._failing = ""
            return Admitted({}, fields=fields)
        if fetched.status >= 500:
            self.note(f"it answers with status {fetched.status}")
            return unavailable()
        if fetched.status < 300:
            # Not one of `trust`; with a 2xx the client would believe that it was let in.
            return Refused(own(403), "refused")
        answer = [field for field in fetched.headers if field[0] not in _NOT_ANSWERED]
        length = (b"content-length", b"%d" % len(fetched.body))
        return Refused(Response(fetched.status, (*answer, length, NO_STORE), fetched.body), "refused")

    def note(self, why: str) -> None:
        """Log the first of several failures."""
        if self._failing != why:
            log.warning("middleware %s: %s: %s; requests get 503", self.name, self._url.partition("?")[0], why)
        self._failing = why


def question(request: Request) -> Headers:
    """Return the fields with which the server is asked about *request*."""
    about = [
        (b"x-forwarded-method", request.method),
        (b"x-forwarded-proto", request.scheme),
        (b"x-forwarded-host", request.authority),
        (b"x-forwarded-uri", request.path + (b"?" + request.query if request.query else b"")),
    ]
    if request.client is not None:
        about.append((b"x-forwarded-for", address_text(request.client[0]).encode()))
    return [*(field for field in request.headers if field[0] not in _NOT_ASKED), *about]
