"""`kind: oidc`: the paths of a login, and who a session says the client is.

    a page without a session   303 to the provider; the attempt goes into a sealed cookie
    redirect_path              the code becomes an ID token, its claims a session; 303 to the page
    logout_path                the cookies are deleted
    anything else              401: a script cannot follow a redirect to a login page

A session is not asked about at the provider again, and not renewed by a refresh token: it ends after `session`. While
the provider cannot be reached, sessions go on and logins get a 503. What is in the messages is decided in login.py, in
the cookies in sessions.py.
"""

from __future__ import annotations

import logging
import secrets
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, quote_plus

from velocity_edge.config.middlewares.oidc import Oidc
from velocity_edge.keys.sealer import Sealer
from workers.http import Answer, HeadEdit, Request, Response, plain
from workers.measures import Measures
from workers.middleware.auth import login
from workers.middleware.auth.cookies import cookies_of, for_upstream
from workers.middleware.auth.document import Unavailable
from workers.middleware.auth.guard import NO_STORE, Admitted, Guard, Refused, Verdict, own, to, unavailable
from workers.middleware.auth.key_set import candidates
from workers.middleware.auth.login import Attempt, LoginFailed, Provider
from workers.middleware.auth.provider import ProviderClient
from workers.middleware.auth.sessions import Fields, Session, Sessions
from workers.middleware.auth.tokens import InvalidToken, Rules, header_of
from workers.pipeline import Handler

log = logging.getLogger(__name__)

_MAX_PARAMETERS: Final = 32


class OidcGuard(Guard):
    """Admits requests with a session, and leads people to a login."""

    def __init__(
        self,
        section: Oidc,
        measures: Measures,
        clock: Callable[[], float],
        sealer: Sealer,
        provider: ProviderClient,
        secret: str | None,
    ) -> None:
        """*clock*: wall time in seconds. *secret*: of a confidential client."""
        forward = {name: field.encode() for name, field in section.forward.items()}
        super().__init__(section.name, measures, required=section.claims, forward=forward)
        self._section = section
        self._clock = clock
        self._provider = provider
        self._secret = secret
        self._kept = sorted({*section.keep, *section.claims, *section.forward})
        self._sessions = Sessions(section.name, [section.issuer, section.client_id, *self._kept], sealer)
        self._rules = Rules(
            frozenset(section.algorithms), section.issuer, frozenset(section.audience), section.leeway_s
        )

    def paths(self) -> Mapping[bytes, Handler]:
        """Return the handlers of `redirect_path` and `logout_path`."""
        return {
            self._section.redirect_path.encode(): self._come_back,
            self._section.logout_path.encode(): self._logout,
        }

    # --- requests ----------------------------------------------------------------------------------------------------

    def identify(self, request: Request) -> Verdict | Awaitable[Verdict]:
        """Return who the session names; without one, begin a login."""
        cookies = cookies_of(request.headers)
        now_s = self._clock()
        session = self._sessions.session(cookies, request.host, now_s)
        if session is None:
            if not login.may_begin(request):
                # RFC 9110 section 15.5.2 demands a challenge; no registered scheme means this one.
                challenge = (b"www-authenticate", f'Cookie realm="{self.name}"'.encode())
                return Refused(own(401, "Sign in first, by opening a page of this site.", challenge), "unauthenticated")
            provider = self._provider.peek()
            return self._discover(request) if provider is None else self._begin(request, provider)
        edit = None
        if not session.current:
            renewed = self._sessions.keep(session, cookies, request.host, now_s)
            edit = None if renewed is None else HeadEdit(set=(NO_STORE,), add=tuple(renewed))
        left = for_upstream(cookies)
        return Admitted(session.claims, edit, ((b"cookie", left),) if left else (), (b"cookie",))

    def forbidden(self, request: Request, claim: str) -> Response:
        """Return 403, with the way to sign in as somebody else."""
        return own(403, f"You are signed in, and not permitted to see this. To sign out: {self._section.logout_path}")

    async def _discover(self, request: Request) -> Verdict:
        try:
            return self._begin(request, await self._provider.load())
        except Unavailable:
            return unavailable()

    def _begin(self, request: Request, provider: Provider) -> Refused:
        now_s = self._clock()
        attempt = Attempt(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            target=login.target_of(request),
            until_s=int(now_s) + login.LOGIN_S,
        )
        url = login.authorization_url(
            provider, self._section.client_id, self._redirect_uri(request), self._section.scopes, attempt
        )
        fields = self._sessions.begin(attempt, cookies_of(request.headers), request.host, now_s)
        return Refused(_redirect(url, fields), "login")

    # --- paths -------------------------------------------------------------------------------------------------------

    async def _come_back(self, request: Request) -> Answer:
        """Answer the request with which the provider sends the browser back."""
        if request.early:
            self.count("early")
            return to(request, own(425))
        if request.method != b"GET":
            return to(request, own(405, "", (b"allow", b"GET")))
        if request.path != self._section.redirect_path.encode():
            return own(404)
        try:
            return await self._signed_in(request)
        except Unavailable as error:
            log.warning("middleware %s: a login failed: %s", self.name, error)
            verdict = unavailable()
            self.count(verdict.result)
            return verdict.response
        except (LoginFailed, InvalidToken) as error:
            self.count("login_failed")
            log.info("middleware %s: a login failed: %s", self.name, error)
            if isinstance(error, LoginFailed):
                return own(error.status, str(error))
            return own(403, f"The provider's answer cannot be accepted: {error}.")

    async def _signed_in(self, request: Request) -> Response:
        cookies = cookies_of(request.headers)
        attempt = self._sessions.attempt(_state(request.query), cookies, request.host)
        provider = self._provider.peek() or await self._provider.load()
        redirect_uri = self._redirect_uri(request)
        code = login.code_of(f"{redirect_uri}?{request.query.decode('ascii')}", attempt, provider, self._clock())
        token = login.id_token_of(await self._exchange(code, attempt, provider, redirect_uri), self._section.client_id)
        claims = await self._verified(token, attempt)
        now_s = self._clock()
        session = Session(login.kept(claims, self._kept), int(now_s + self._section.session_s))
        fields = self._sessions.keep(session, cookies, request.host, now_s)
        if fields is None:
            raise LoginFailed("The provider says too much about you: ask the operator to keep fewer claims.", 500)
        self.count("logged_in")
        origin = redirect_uri.removesuffix(self._section.redirect_path)
        return _redirect(origin + attempt.target, [*fields, self._sessions.finish(attempt.state)])

    async def _exchange(self, code: str, attempt: Attempt, provider: Provider, redirect_uri: str) -> bytes:
        client_id, secret = self._section.client_id, self._secret
        body = login.token_request(code, attempt, client_id, redirect_uri, secret, basic=provider.basic)
        fields = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        if secret is not None and provider.basic:
            # RFC 6749 section 2.3.1: both are form-encoded first.
            pair = f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()
            fields.append((b"authorization", b"Basic " + b64encode(pair)))
        return await self._provider.tokens(provider.token_endpoint, fields, body.encode())

    async def _verified(self, token: bytes, attempt: Attempt) -> Mapping[str, object]:
        header = header_of(token, self._rules)
        keys = candidates(await self._provider.keys(), header)
        if not keys:
            keys = candidates(await self._provider.keys(again=True), header)
        return login.claims_of(token, attempt, keys, self._rules, self._section.client_id, self._clock())

    def _logout(self, request: Request) -> Answer:
        """Delete the session. Another site's page cannot make a browser do it, where the browser tells."""
        if request.early:
            self.count("early")
            return to(request, own(425))
        if request.method not in (b"GET", b"POST"):
            return to(request, own(405, "", (b"allow", b"GET, POST")))
        if request.path != self._section.logout_path.encode():
            return own(404)
        if request.header(b"sec-fetch-site") == b"cross-site":
            return own(403, "Sign out from a page of this site.")
        self.count("logged_out")
        return _redirect(_origin(request) + self._section.after_logout, self._sessions.end(cookies_of(request.headers)))

    def _redirect_uri(self, request: Request) -> str:
        return _origin(request) + self._section.redirect_path


def _origin(request: Request) -> str:
    # The engine accepts no authority but host and port (RFC 9114 section 4.3.1), and the router only names that it has.
    return "https://" + request.authority.decode("ascii")


def _state(query: bytes) -> str:
    try:
        pairs = parse_qsl(query.decode("ascii"), max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise LoginFailed("This is no answer of the provider.") from None
    return dict(pairs).get("state", "")


def _redirect(url: str, fields: Fields) -> Response:
    location = (b"location", url.encode("ascii"))
    text = plain(303, "")
    return Response(303, (*text.headers, location, NO_STORE, *fields), text.body)
