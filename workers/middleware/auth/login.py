"""One login at an OpenID provider: the authorization code flow with PKCE, state and nonce. Pure.

oauthlib writes and reads the messages of OAuth 2.0 (RFC 6749, RFC 7636), tokens.py verifies the ID token (OpenID
Connect Core, section 3.1.3.7). What binds them to one browser is decided here: a login has an `Attempt`, which only the
browser that began it has, sealed in a cookie. An answer of the provider without the attempt of its state is refused, so
nobody can be signed in as somebody else (login CSRF); the nonce binds the ID token to the attempt, the verifier the
code.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from oauthlib.oauth2 import OAuth2Error, WebApplicationClient

from velocity_edge.config.middlewares.identity import is_permitted
from workers.middleware.auth.tokens import InvalidToken, Key, Rules, header_of, verify

if TYPE_CHECKING:
    from workers.http import Request

#: A person who takes longer has to begin again.
LOGIN_S: Final = 600
#: Longer targets are replaced by "/": the attempt must fit into one cookie.
_MAX_TARGET_BYTES: Final = 1024
_ERROR_CODE: Final = re.compile(r"[a-z_]{1,64}")


class LoginFailed(Exception):
    """This login cannot end well. The text is for the person at the browser; `status` is that of the response."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class UnusableProvider(Exception):
    """What the provider says about itself cannot be used."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What discovery found out (OpenID Connect Discovery, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    #: The secret goes into an Authorization field; otherwise into the body.
    basic: bool = True
    #: Its answers name the issuer (RFC 9207).
    names_issuer: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that has begun. All but `target` and `until_s` are random."""

    state: str
    nonce: str
    verifier: str
    #: Where the person wanted to go: path and query.
    target: str
    #: Seconds since 1970.
    until_s: int

    def dump(self) -> bytes:
        """Return what is sealed."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def load(cls, plain: bytes) -> Attempt | None:
        """Return what `dump` wrote; None for what another version with the same keys wrote."""
        try:
            return cls(**json.loads(plain))
        except (TypeError, ValueError):
            return None


def provider_of(document: bytes, issuer: str, *, insecure: bool) -> Provider:
    """Return the provider that *document* describes. Raises `UnusableProvider`."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnusableProvider("its discovery document is no JSON object")
    if found.get("issuer") != issuer:
        raise UnusableProvider(f"it names itself {str(found.get('issuer'))[:200]!r}, not {issuer!r}")
    urls: dict[str, str] = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        url = found.get(name)
        if not isinstance(url, str) or not url.isascii() or not is_permitted(url, insecure=insecure):
            raise UnusableProvider(f"its {name} is not an address with https")
        urls[name] = url
    # The default of Discovery is client_secret_basic.
    methods = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    basic = not isinstance(methods, list) or "client_secret_basic" in methods or "client_secret_post" not in methods
    named = found.get("authorization_response_iss_parameter_supported") is True
    return Provider(issuer, **urls, basic=basic, names_issuer=named)


# --- towards the provider ---------------------------------------------------------------------------------------------


def may_begin(request: Request) -> bool:
    """Return whether a redirect to a login page makes sense: a person opens a page.

    A program, or a script in a page, would follow the redirect and fail there: it gets a 401.
    """
    if request.method != b"GET" or request.header(b"x-requested-with") is not None:
        return False
    if request.header(b"sec-fetch-mode") not in (None, b"navigate"):
        return False
    accept = request.header(b"accept")
    return accept is None or b"text/html" in accept or b"*/*" in accept.split(b",")[0]


def target_of(request: Request) -> str:
    """Return the path and query to return to. Never an address of another host, whatever the path looks like."""
    target = (request.path + (b"?" + request.query if request.query else b"")).decode("ascii", "replace")
    # "//host/" and "/\host/" would be addresses of another host where they stand alone.
    safe = re.fullmatch(r"/([!-\[\]-~][!-~]*)?", target) and not target.startswith("//")
    return target if safe and len(target) <= _MAX_TARGET_BYTES else "/"


def authorization_url(
    provider: Provider, client_id: str, redirect_uri: str, scopes: Sequence[str], attempt: Attempt
) -> str:
    """Return the address to which the browser is sent."""
    client = WebApplicationClient(client_id)
    challenge = client.create_code_challenge(attempt.verifier, "S256")
    # oauthlib refuses http; that it is permitted here was decided before (`provider_of`).
    scheme, separator, rest = provider.authorization_endpoint.partition("://")
    url: str = client.prepare_request_uri(
        "https" + separator + rest,
        redirect_uri=redirect_uri,
        scope=list(dict.fromkeys(("openid", *scopes))),
        state=attempt.state,
        code_challenge=challenge,
        code_challenge_method="S256",
        nonce=attempt.nonce,
    )
    return scheme + url.removeprefix("https")


def code_of(url: str, attempt: Attempt, provider: Provider, now_s: float) -> str:
    """Return the authorization code in the address *url* to which the provider sent the browser.

    Raises `LoginFailed`: another state, an attempt that has expired, another issuer, or an error of the provider.
    """
    if now_s >= attempt.until_s:
        raise LoginFailed("This login took too long. Open the page again.")
    try:
        answer = WebApplicationClient("").parse_request_uri_response(url, state=attempt.state)
    except OAuth2Error as error:
        code = error.error if isinstance(error.error, str) and _ERROR_CODE.fullmatch(error.error) else "unknown error"
        refused = code == "access_denied"
        raise LoginFailed(f"The provider did not sign you in: {code}.", 403 if refused else 400) from None
    issuer = answer.get("iss")
    if issuer != provider.issuer and (issuer is not None or provider.names_issuer):
        raise LoginFailed("This answer is from another provider.")
    return str(answer["code"])


def token_request(
    code: str, attempt: Attempt, client_id: str, redirect_uri: str, secret: str | None, *, basic: bool
) -> str:
    """Return the body of the request for tokens. *basic*: the secret is sent in a field instead."""
    fields = {} if secret is None or basic else {"client_secret": secret}
    body: str = WebApplicationClient(client_id).prepare_request_body(
        code=code,
        redirect_uri=redirect_uri,
        code_verifier=attempt.verifier,
        include_client_id=secret is None or not basic,
        **fields,
    )
    return body


# --- from the provider ------------------------------------------------------------------------------------------------


def id_token_of(body: bytes, client_id: str) -> bytes:
    """Return the ID token in the answer of the token endpoint. Raises `LoginFailed`."""
    try:
        if not isinstance(json.loads(body), dict):
            raise LoginFailed("The provider did not give a token.", 502)
        tokens = WebApplicationClient(client_id).parse_request_body_response(body.decode("utf-8", "replace"))
    except OAuth2Error as error:
        code = error.error if isinstance(error.error, str) and _ERROR_CODE.fullmatch(error.error) else "unknown error"
        raise LoginFailed(f"The provider did not accept this login: {code}.", 403) from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise LoginFailed("The provider did not give a token.", 502) from None
    token = tokens.get("id_token")
    if not isinstance(token, str):
        raise LoginFailed("The provider did not give an ID token.", 502)
    return token.encode("utf-8", "replace")


def claims_of(
    token: bytes, attempt: Attempt, keys: Sequence[Key], rules: Rules, client_id: str, now_s: float
) -> dict[str, Any]:
    """Return the claims of an ID token for this attempt (OpenID Connect Core, section 3.1.3.7). Raises `InvalidToken`.

    *rules*: issuer and algorithms; its audiences are those that are trusted beside this client.
    """
    own = Rules(rules.algorithms, rules.issuer, frozenset((client_id,)), rules.leeway_s)
    claims = verify(token, header_of(token, own), keys, own, now_s)
    audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if any(one != client_id and one not in rules.audiences for one in audience):
        raise InvalidToken("the token is for other audiences, too")
    if claims.get("azp", client_id) != client_id:
        raise InvalidToken("the token was issued to another client")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), attempt.nonce.encode()):
        raise InvalidToken("the token is of another login")
    if not isinstance(claims.get("sub"), str):
        raise InvalidToken("the token names nobody")
    return claims


def kept(claims: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the claims that a session keeps: `sub`, and those of *names*, by the first step of a path."""
    wanted = {"sub", *names, *(name.partition(".")[0] for name in names)}
    return {name: value for name, value in claims.items() if name in wanted}
