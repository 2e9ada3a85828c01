"""`kind: jwt`: bearer tokens (RFC 6750), verified here without asking anybody for each request.

Verified tokens are remembered for a minute at most, so that a client with many requests costs one signature; the memory
is bounded, and forgotten when the keys change. What a valid token is, is decided in tokens.py and key_set.py, when keys
are fetched in document.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from velocity_edge.config.middlewares.jwt import Jwt
from workers.http import Request, Response
from workers.measures import Measures
from workers.middleware.auth.claims import Claims
from workers.middleware.auth.cookies import cookies_of
from workers.middleware.auth.document import Document, Unavailable
from workers.middleware.auth.guard import Admitted, Guard, Refused, Verdict, own, unavailable
from workers.middleware.auth.key_set import candidates
from workers.middleware.auth.tokens import InvalidToken, Key, Rules, digest, header_of, verify

Keys = Sequence[Key]
#: Tokens whose claims are remembered: about 2 MiB.
MAX_REMEMBERED: Final = 2048
REMEMBER_S: Final = 60.0
_MAX_PARAMETERS: Final = 256


class JwtGuard(Guard):
    """Admits requests with a valid token."""

    def __init__(
        self, section: Jwt, measures: Measures, clock: Callable[[], float], keys: Keys | Document[tuple[Key, ...]]
    ) -> None:
        """*clock*: wall time in seconds. *keys*: those of a file, or the key set of the issuer."""
        forward = {name: field.encode() for name, field in section.forward.items()}
        super().__init__(section.name, measures, required=section.claims, forward=forward)
        self._section = section
        self._header = section.header.lower().encode()
        self._cookie = section.cookie.encode() if section.cookie else None
        self._rules = Rules(
            frozenset(section.algorithms), section.issuer, frozenset(section.audience), section.leeway_s
        )
        self._clock = clock
        self._keys = keys
        self._remembered: OrderedDict[bytes, tuple[Claims, float]] = OrderedDict()
        self._remembered_with: object = None

    def identify(self, request: Request) -> Verdict | Awaitable[Verdict]:
        """Verify the request's token; wait only when keys must be fetched for it."""
        token = self._token(request)
        if not token:
            return Refused(self._challenge(), "unauthenticated")
        keys = self._keys.peek() if isinstance(self._keys, Document) else self._keys
        if keys is None:
            return self._fetch_and_verify(token, again=False)
        claims = self._recall(token, keys)
        if claims is not None:
            return self._admit(claims)
        try:
            found = self._verify(token, keys)
        except InvalidToken as error:
            return self._invalid(error)
        return self._fetch_and_verify(token, again=True) if found is None else self._admit(found)

    def forbidden(self, request: Request, claim: str) -> Response:
        """Return 403 with the error code of RFC 6750 section 3.1."""
        return own(403, "", self._field(error="insufficient_scope"))

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _token(self, request: Request) -> bytes | None:
        value = request.header(self._header)
        if value is not None:
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip(b" ")
            if self._header != b"authorization":
                return value
        if self._cookie is not None:
            for name, text in cookies_of(request.headers):
                if name == self._cookie:
                    return text
        if self._section.query is not None and request.query:
            return self._in_query(request.query, self._section.query)
        return None

    @staticmethod
    def _in_query(query: bytes, name: str) -> bytes | None:
        try:
            pairs = parse_qsl(query.decode("ascii", "replace"), max_num_fields=_MAX_PARAMETERS)
        except ValueError:
            return None
        return next((value.encode() for key, value in pairs if key == name), None)

    async def _fetch_and_verify(self, token: bytes, *, again: bool) -> Verdict:
        """Verify with the keys that there are after a fetch: the first ones, or (*again*) those of a rotation."""
        assert isinstance(self._keys, Document)
        try:
            found = self._verify(token, await self._keys.load(again=again))
        except Unavailable:
            return unavailable()
        except InvalidToken as error:
            return self._invalid(error)
        if found is None:
            return self._invalid(InvalidToken("the key of the token is not known"))
        return self._admit(found)

    def _verify(self, token: bytes, keys: Keys) -> Claims | None:
        """Return the claims; None when another set of keys may have the token's key. Raises `InvalidToken`."""
        header = header_of(token, self._rules)
        fitting = candidates(keys, header)
        if not fitting and isinstance(self._keys, Document):
            return None
        claims = verify(token, header, fitting, self._rules, self._clock())
        self._remember(token, keys, claims)
        return claims

    def _recall(self, token: bytes, keys: Keys) -> Claims | None:
        if self._remembered_with is not keys:
            self._remembered.clear()
            self._remembered_with = keys
        found = self._remembered.get(digest(token))
        return found[0] if found is not None and self._clock() < found[1] else None

    def _remember(self, token: bytes, keys: Keys, claims: Mapping[str, Any]) -> None:
        if self._remembered_with is not keys:
            return
        while len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        until_s = min(claims["exp"] + self._rules.leeway_s, self._clock() + REMEMBER_S)
        self._remembered[digest(token)] = claims, until_s

    # --- verdicts ----------------------------------------------------------------------------------------------------

    def _admit(self, claims: Claims) -> Admitted:
        return Admitted(claims, drop=(self._header,) if self._section.hide_credentials else ())

    def _invalid(self, error: InvalidToken) -> Refused:
        return Refused(self._challenge(error="invalid_token", error_description=str(error)), "invalid")

    def _challenge(self, **parameters: str) -> Response:
        return own(401, "", self._field(**parameters))

    def _field(self, **parameters: str) -> tuple[bytes, bytes]:
        text = ", ".join(f'{name}="{value}"' for name, value in {"realm": self.name, **parameters}.items())
        return b"www-authenticate", b"Bearer " + text.encode("ascii")
