"""One login is of one browser: every value that binds it is checked, and nothing but a whole login makes a session."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.epoch_tables import table
from tests.support.guards import Around, Field, Servers, decisions, field, request, section
from tests.support.jwts import NOW_S, claims, jwk, key_set, token
from tests.support.site import Clock
from velocity_edge.config.middlewares.oidc import Oidc
from velocity_edge.http.message import field_section_size
from velocity_edge.keys.ring import LOGIN_COOKIE, SESSION_COOKIE
from velocity_edge.keys.sealer import Sealer
from workers.http import Request, Response
from workers.measures import Measures
from workers.middleware.auth import login
from workers.middleware.auth.cookies import PREFIX, split
from workers.middleware.auth.document import PAUSE_S
from workers.middleware.auth.oidc import OidcGuard
from workers.middleware.auth.provider import ProviderClient
from workers.middleware.auth.sessions import MAX_LOGINS, Session, Sessions

ISSUER: Final = "https://provider.test"
TOKENS: Final = f"{ISSUER}/token"
KEYS: Final = f"{ISSUER}/keys"
DISCOVERY: Final = f"{ISSUER}/.well-known/openid-configuration"
METADATA: Final = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": TOKENS,
    "jwks_uri": KEYS,
}
CALLBACK: Final = "/.velocity/oidc/callback"
LOGOUT: Final = b"/.velocity/oidc/logout"


class Rig:
    """A node of one worker, a provider, and browsers."""

    def __init__(self, *, secret: str | None = None, sealer: Sealer | None = None, **settings: Any) -> None:
        self.section = section(
            Oidc, **{"name": "people", "kind": "oidc", "issuer": ISSUER, "client_id": "edge", **settings}
        )
        self.clock, self.measures, self.servers = Clock(NOW_S), Measures(), Servers()
        self.sealer = sealer or Sealer(table(1, 2))
        self.servers.has(DISCOVERY, METADATA)
        self.servers.has(KEYS, key_set(jwk("EC", "k1")))
        self.provider = ProviderClient(ISSUER, self.servers, insecure=False, clock=self.clock)
        self.guard = OidcGuard(self.section, self.measures, self.clock, self.sealer, self.provider, secret)
        self.around = Around(self.guard)

    def gives(self, *, kind: str = "EC", alg: str = "ES256", kid: str = "k1", **changes: Any) -> None:
        """Have the token endpoint give an ID token for these claims."""
        found = {"iss": ISSUER, "aud": "edge", "groups": ["staff"], **changes}
        tokens = {"access_token": "a", "token_type": "Bearer", "id_token": token(kind, alg, kid, **found).decode()}
        self.servers.has(TOKENS, tokens)


class Browser:
    """Keeps cookies; follows no redirect."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.jar: dict[bytes, bytes] = {}

    async def get(self, target: str, *fields: Field, **more: Any) -> Response:
        cookies = tuple((b"cookie", name + b"=" + value) for name, value in self.jar.items())
        response = await self.rig.around(request(target.encode(), *cookies, *fields, **more))
        for name, value in response.headers:
            if name == b"set-cookie":
                pair, *attributes = value.split(b"; ")
                key, _, text = pair.partition(b"=")
                assert {b"Path=/", b"Secure", b"HttpOnly", b"SameSite=Lax"} <= set(attributes)
                if b"Max-Age=0" in attributes:
                    self.jar.pop(key, None)
                else:
                    self.jar[key] = text
        return response

    async def begin(self, target: str = "/") -> dict[str, str]:
        """Open a page; return the parameters of the redirect to the provider."""
        response = await self.get(target)
        assert response.status == 303
        url = urlsplit((field(response, b"location") or b"").decode())
        assert f"{url.scheme}://{url.netloc}{url.path}" == METADATA["authorization_endpoint"]
        return {name: value for name, (value,) in parse_qs(url.query).items()}

    async def come_back(self, state: str, code: str = "c0de", more: str = "") -> Response:
        return await self.get(f"{CALLBACK}?code={code}&state={state}{more}")

    async def sign_in(self, target: str = "/", **changes: Any) -> Response:
        asked = await self.begin(target)
        self.rig.gives(nonce=asked["nonce"], **changes)
        return await self.come_back(asked["state"])


@pytest.fixture(name="rig")
def _rig() -> Rig:
    return Rig()


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


# --- a login ----------------------------------------------------------------------------------------------------------


async def test_a_login_leads_back_to_the_page_with_a_session() -> None:
    rig = Rig(forward={"email": "x-email"}, claims={"groups": "staff"})
    browser = Browser(rig)
    asked = await browser.begin("/a/b?c=d")
    assert asked["response_type"] == "code"
    assert asked["client_id"] == "edge"
    assert asked["redirect_uri"] == f"https://edge.test{CALLBACK}"
    assert asked["scope"] == "openid profile email"
    assert asked["code_challenge_method"] == "S256"
    rig.gives(nonce=asked["nonce"], email="alice@example.com", secret_claim="x")
    response = await browser.come_back(asked["state"])
    assert (response.status, field(response, b"location")) == (303, b"https://edge.test/a/b?c=d")
    assert field(response, b"cache-control") == b"private, no-store"
    ((_, _, fields, body),) = [one for one in rig.servers.asked if one[1] == TOKENS]
    sent = {name: value for name, (value,) in parse_qs(body.decode()).items()}
    assert sent["grant_type"] == "authorization_code"
    assert (sent["code"], sent["redirect_uri"], sent["client_id"]) == ("c0de", asked["redirect_uri"], "edge")
    assert digest(sent["code_verifier"]) == asked["code_challenge"]
    assert b"authorization" not in dict(fields)
    page = await browser.get("/a/b", (b"cookie", b"mine=1"))
    assert (page.status, field(page, b"cache-control"), field(page, b"set-cookie")) == (200, b"private", None)
    served = rig.around.served[-1]
    assert served.claims == {"sub": "alice", "groups": ["staff"], "email": "alice@example.com"}
    assert served.upstream_fields == [(b"x-email", b"alice@example.com"), (b"cookie", b"mine=1")]
    assert served.upstream_drop == [b"cookie"]
    assert decisions(rig.measures) == {"login": 1, "logged_in": 1, "ok": 1}


async def test_states_nonces_and_verifiers_are_new_each_time(rig: Rig) -> None:
    asked = [await Browser(rig).begin() for _ in range(3)]
    for name in ("state", "nonce", "code_challenge"):
        assert len({one[name] for one in asked}) == 3
        assert all(len(one[name]) >= 32 for one in asked)


async def test_another_browser_cannot_end_a_login(rig: Rig) -> None:
    """Login CSRF: who has the address of an answer, but not the cookie, is not signed in."""
    attacker, victim = Browser(rig), Browser(rig)
    asked = await attacker.begin()
    rig.gives(nonce=asked["nonce"])
    assert (await victim.come_back(asked["state"])).status == 400
    await victim.begin()
    assert (await victim.come_back(asked["state"])).status == 400
    stolen = {name: value for name, value in victim.jar.items() if name.startswith(PREFIX + b"l-")}
    renamed = PREFIX + b"l-people-" + asked["state"][:8].encode()
    victim.jar[renamed] = next(iter(stolen.values()))
    assert (await victim.come_back(asked["state"])).status == 400
    assert rig.servers.count(TOKENS) == 0
    assert (await attacker.come_back(asked["state"])).status == 303


@pytest.mark.parametrize("state", ["", "x", "%00", "é"])
async def test_an_answer_without_a_state_is_refused(rig: Rig, state: str) -> None:
    browser = Browser(rig)
    asked = await browser.begin()
    rig.gives(nonce=asked["nonce"])
    for query in (f"?code=c&state={state}", "?code=c", "", "?" + "&".join("a=b" for _ in range(100))):
        assert (await browser.get(CALLBACK + query)).status == 400
    # The first characters choose the cookie, all of them are compared.
    assert (await browser.come_back(asked["state"][:8])).status == 400
    assert rig.servers.count(TOKENS) == 0


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"nonce": "other"}, 403),
        ({"nonce": None}, 403),
        ({"nonce": 7}, 403),
        ({"iss": "https://other.test"}, 403),
        ({"aud": "other"}, 403),
        ({"aud": ["edge", "other"]}, 403),
        ({"azp": "other"}, 403),
        ({"sub": None}, 403),
        ({"sub": 7}, 403),
        ({"exp": int(NOW_S) - 61}, 403),
        ({"iat": int(NOW_S) + 61}, 403),
        ({"kind": "OKP", "alg": "EdDSA"}, 403),
        ({"kid": "unknown"}, 403),
    ],
)
async def test_an_id_token_that_is_not_for_this_login_makes_no_session(
    rig: Rig, changes: dict[str, Any], status: int
) -> None:
    browser = Browser(rig)
    asked = await browser.begin()
    rig.gives(**{"nonce": asked["nonce"], **changes})
    response = await browser.come_back(asked["state"])
    assert response.status == status
    assert field(response, b"set-cookie") is None
    assert (await browser.get("/")).status == 303
    assert decisions(rig.measures)["login_failed"] == 1


async def test_unsigned_and_hmac_id_tokens_are_refused(rig: Rig) -> None:
    browser = Browser(rig)
    asked = await browser.begin()
    said = claims(iss=ISSUER, aud="edge", nonce=asked["nonce"])
    for alg in ("none", "HS256"):
        head, body = (
            base64.urlsafe_b64encode(repr(part).replace("'", '"').encode()).rstrip(b"=")
            for part in ({"alg": alg}, said)
        )
        text = b".".join((head, body, b"" if alg == "none" else b"AAAA")).decode()
        rig.servers.has(TOKENS, {"access_token": "a", "token_type": "Bearer", "id_token": text})
        response = await browser.come_back(asked["state"])
        assert (response.status, b"algorithm" in (response.body or b"")) == (403, True)  # type: ignore[operator]


async def test_other_audiences_are_accepted_when_they_are_trusted() -> None:
    rig = Rig(audience="api")
    assert (await Browser(rig).sign_in(aud=["edge", "api"])).status == 303
    assert (await Browser(rig).sign_in(aud=["api"])).status == 403


async def test_clocks_may_differ_by_the_leeway(rig: Rig) -> None:
    assert (await Browser(rig).sign_in(exp=int(NOW_S) - 59, iat=int(NOW_S) + 60)).status == 303


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("error=access_denied", 403, b"access_denied"),
        ("error=server_error&error_description=<script>", 400, b"server_error"),
        ("error=%3Cscript%3E", 400, b"unknown error"),
        ("", 400, b""),
        ("code=c&iss=https://other.test", 400, b"another provider"),
    ],
)
async def test_errors_of_the_provider_are_shown_without_its_text(
    rig: Rig, query: str, status: int, said: bytes
) -> None:
    browser = Browser(rig)
    asked = await browser.begin()
    response = await browser.get(f"{CALLBACK}?{query}&state={asked['state']}")
    assert response.status == status
    assert isinstance(response.body, bytes)
    assert said in response.body
    assert b"script" not in response.body


async def test_a_provider_that_names_itself_in_answers_must_do_it() -> None:
    """RFC 9207: the answer of another provider is not taken for one of this."""
    rig = Rig()
    rig.servers.has(DISCOVERY, {**METADATA, "authorization_response_iss_parameter_supported": True})
    browser = Browser(rig)
    asked = await browser.begin()
    rig.gives(nonce=asked["nonce"])
    assert (await browser.come_back(asked["state"])).status == 400
    assert (await browser.come_back(asked["state"], more=f"&iss={ISSUER}")).status == 303


async def test_an_attempt_ends_after_ten_minutes(rig: Rig) -> None:
    browser = Browser(rig)
    asked = await browser.begin()
    rig.gives(nonce=asked["nonce"], exp=int(NOW_S) + 9999)
    rig.clock.now_s += login.LOGIN_S
    assert (await browser.come_back(asked["state"])).status == 400
    rig.clock.now_s -= 1
    assert (await browser.come_back(asked["state"])).status == 303


async def test_several_tabs_can_sign_in_and_their_number_is_bounded(rig: Rig) -> None:
    browser = Browser(rig)
    begun = []
    for i in range(MAX_LOGINS + 3):
        rig.clock.now_s += 1
        begun.append(await browser.begin(f"/{i}"))
        assert len(browser.jar) <= MAX_LOGINS
    rig.gives(nonce=begun[0]["nonce"])
    assert (await browser.come_back(begun[0]["state"])).status == 400, "the oldest ones were given up"
    for i in (-1, -2):
        rig.gives(nonce=begun[i]["nonce"])
        assert field(await browser.come_back(begun[i]["state"]), b"location") == b"https://edge.test/%d" % (
            len(begun) + i
        )


async def test_all_cookies_of_a_browser_fit_into_a_header_section(rig: Rig) -> None:
    """`server.limits.max_field_section` is 16 KiB: a request above it would get 431, again and again."""
    rig.section = rig.section.model_copy(update={"keep": ["groups"]})
    rig.guard._kept.append("groups")
    browser = Browser(rig)
    await browser.sign_in(groups=["x" * 5500])
    assert len(browser.jar) == 2
    session = dict(browser.jar)
    browser.jar.clear()
    for i in range(MAX_LOGINS + 1):
        rig.clock.now_s += 1
        await browser.begin(f"/{i}{'a' * 1000}")
    fields = [(b"cookie", name + b"=" + value) for name, value in {**session, **browser.jar}.items()]
    assert field_section_size(fields) < 14 * 1024


async def test_an_answer_that_came_once_is_over(rig: Rig) -> None:
    browser = Browser(rig)
    asked = await browser.begin()
    rig.gives(nonce=asked["nonce"])
    assert (await browser.come_back(asked["state"])).status == 303
    assert (await browser.come_back(asked["state"])).status == 400
    assert rig.servers.count(TOKENS) == 1


@pytest.mark.parametrize(
    ("answer", "status", "result"),
    [
        ((b'{"error": "invalid_grant"}', 400), 403, "login_failed"),
        ((b'{"error": "invalid_client"}', 401), 403, "login_failed"),
        ((b"[]", 200), 502, "login_failed"),
        ((b"<html>", 200), 502, "login_failed"),
        ((b'{"access_token": "a"}', 200), 502, "login_failed"),
        ((b'{"id_token": "a"}', 200), 403, "login_failed"),
        ((b"", 500), 503, "unavailable"),
        ((b"", 302), 503, "unavailable"),
    ],
)
async def test_answers_of_the_token_endpoint(rig: Rig, answer: tuple[bytes, int], status: int, result: str) -> None:
    browser = Browser(rig)
    asked = await browser.begin()
    rig.servers.has(TOKENS, *answer)
    response = await browser.come_back(asked["state"])
    assert response.status == status
    assert field(response, b"set-cookie") is None
    assert decisions(rig.measures)[result] == 1


@pytest.mark.parametrize("methods", [None, ["client_secret_basic"], ["client_secret_post"]])
async def test_the_secret_is_sent_as_the_provider_wants_it(methods: list[str] | None) -> None:
    rig = Rig(secret="s%/ ü")
    more = {} if methods is None else {"token_endpoint_auth_methods_supported": methods}
    rig.servers.has(DISCOVERY, {**METADATA, **more})
    assert (await Browser(rig).sign_in()).status == 303
    ((_, _, fields, body),) = [one for one in rig.servers.asked if one[1] == TOKENS]
    sent = parse_qs(body.decode())
    if methods == ["client_secret_post"]:
        assert (sent["client_secret"], sent["client_id"]) == (["s%/ ü"], ["edge"])
        assert b"authorization" not in dict(fields)
    else:
        assert base64.b64decode(dict(fields)[b"authorization"][6:]) == b"edge:s%25%2F+%C3%BC"
        assert "client_secret" not in sent


# --- the provider -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        {**METADATA, "issuer": "https://provider.test/"},
        {**METADATA, "token_endpoint": "http://provider.test/token"},
        {**METADATA, "jwks_uri": "http://10.0.0.1/keys"},
        {**METADATA, "authorization_endpoint": "javascript:alert(1)"},
        {**METADATA, "authorization_endpoint": None},
        {"issuer": ISSUER},
        [],
    ],
)
async def test_a_provider_that_says_something_else_is_not_used(rig: Rig, metadata: Any) -> None:
    rig.servers.has(DISCOVERY, metadata)
    response = await Browser(rig).get("/")
    assert (response.status, field(response, b"retry-after")) == (503, b"5")


async def test_while_the_provider_is_down_sessions_go_on_and_logins_wait(rig: Rig) -> None:
    known, late = Browser(rig), Browser(rig)
    await known.sign_in()
    asked = await late.begin()
    rig.servers.answers.clear()
    rig.clock.now_s += 7200
    assert (await known.get("/")).status == 200
    assert (await late.get("/")).status == 503
    assert (await late.get(CALLBACK + "?code=c&state=" + asked["state"])).status in (400, 503)
    assert not [served for served in rig.around.served if served.claims is None]


async def test_keys_that_the_provider_has_since_changed_are_fetched(rig: Rig) -> None:
    await Browser(rig).sign_in()
    rig.servers.has(KEYS, key_set(jwk("OKP", "k2")))
    assert (await Browser(rig).sign_in(kind="OKP", alg="EdDSA", kid="k2")).status == 403, "not asked again so soon"
    rig.clock.now_s += PAUSE_S
    assert (await Browser(rig).sign_in(kind="OKP", alg="EdDSA", kid="k2")).status == 303


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_another_worker_with_the_same_keys_knows_the_session(rig: Rig) -> None:
    browser = Browser(rig)
    await browser.sign_in()
    browser.rig = Rig(sealer=Sealer(table(1, 2)))
    assert (await browser.get("/")).status == 200
    browser.rig = Rig(sealer=Sealer(table(3)))
    assert (await browser.get("/")).status == 303


async def test_a_rotation_keeps_the_session_and_seals_it_again(rig: Rig) -> None:
    browser = Browser(rig)
    await browser.sign_in()
    before = dict(browser.jar)
    rig.clock.now_s += 60
    rig.sealer.use(table(1, 2, 3))
    response = await browser.get("/")
    assert (response.status, field(response, b"cache-control")) == (200, b"private, no-store")
    assert re.search(rb"Max-Age=28740;", field(response, b"set-cookie") or b""), "the same end"
    assert browser.jar != before
    assert field(await browser.get("/"), b"set-cookie") is None
    rig.sealer.use(table(3))
    assert (await browser.get("/")).status == 200
    rig.sealer.use(replace(table(3, 4), closed=(3,), cid_live=(4,)))
    assert (await browser.get("/")).status == 303


async def test_a_session_ends(rig: Rig) -> None:
    browser = Browser(rig)
    await browser.sign_in()
    rig.clock.now_s = NOW_S + 28_799
    assert (await browser.get("/")).status == 200
    rig.clock.now_s += 1
    assert (await browser.get("/")).status == 303


@pytest.mark.parametrize(
    "settings",
    [{"client_id": "other"}, {"name": "others"}, {"claims": {"groups": "staff"}}, {"forward": {"x": "x-x"}}],
)
async def test_a_session_of_another_definition_does_not_open(rig: Rig, settings: dict[str, Any]) -> None:
    browser = Browser(rig)
    await browser.sign_in()
    browser.rig = Rig(sealer=rig.sealer, **settings)
    (name,) = browser.jar
    browser.jar[PREFIX + b"s-" + browser.rig.section.name.encode()] = browser.jar[name]
    assert (await browser.get("/")).status == 303


async def test_a_session_of_another_host_does_not_open(rig: Rig) -> None:
    browser = Browser(rig)
    await browser.sign_in()
    ((name, value),) = browser.jar.items()
    other = Request(b"GET", b"other.test", b"/", ((b"cookie", name + b"=" + value),))
    assert (await rig.around(other)).status == 303


@pytest.mark.parametrize("plain", [b"[]", b"{}", b'{"version": 2}', b"not JSON"])
async def test_cookies_of_another_version_are_as_none(rig: Rig, plain: bytes) -> None:
    """Nodes with the same keys may have different versions during an upgrade."""
    browser = Browser(rig)
    sessions = rig.guard._sessions
    associated = sessions._associated(b"edge.test")
    for name, label in ((b"s-people", SESSION_COOKIE), (b"l-people-aaaaaaaa", LOGIN_COOKIE)):
        (value,) = split(PREFIX + name, rig.sealer.seal(label, plain, associated), 60) or []
        browser.jar[PREFIX + name] = value[1].partition(b";")[0].partition(b"=")[2]
    assert (await browser.get("/")).status == 303
    assert (await browser.come_back("a" * 32)).status == 400


async def test_a_login_cookie_is_no_session(rig: Rig) -> None:
    browser = Browser(rig)
    await browser.begin()
    (value,) = browser.jar.values()
    browser.jar[PREFIX + b"s-people"] = value
    assert (await browser.get("/")).status == 303


@given(data=st.data())
def test_a_changed_session_cookie_does_not_open(data: st.DataObject) -> None:
    sessions = Sessions("people", [ISSUER], Sealer(table(1)))
    fields = sessions.keep(Session({"sub": "alice"}, int(NOW_S) + 60), (), b"edge.test", NOW_S)
    assert fields is not None
    name, _, value = fields[0][1].partition(b";")[0].partition(b"=")
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.sampled_from([b"", *(bytes((c,)) for c in b"AZaz09-_.=")]))
    changed = value[:at] + other + value[at + 1 :]
    if changed != value:
        assert sessions.session([(name, changed)], b"edge.test", NOW_S) is None
    assert sessions.session([(name, value)], b"edge.test", NOW_S) is not None


async def test_large_claims_are_split_and_too_large_ones_refused() -> None:
    rig = Rig(keep="groups")
    browser = Browser(rig)
    groups = [f"group-{i}" for i in range(300)]
    await browser.sign_in(groups=groups)
    assert len(browser.jar) == 2
    assert (await browser.get("/")).status == 200
    served = rig.around.served[-1]
    assert served.claims == {"sub": "alice", "groups": groups}
    response = await Browser(rig).sign_in(groups=groups * 2)
    assert (response.status, field(response, b"set-cookie")) == (500, None)
    await browser.get(LOGOUT.decode())
    assert not browser.jar


async def test_a_logout_deletes_the_session_and_leads_away() -> None:
    rig = Rig(after_logout="/bye")
    browser = Browser(rig)
    await browser.sign_in()
    assert (await browser.get(LOGOUT.decode(), (b"sec-fetch-site", b"cross-site"))).status == 403
    assert (await browser.get("/")).status == 200
    response = await browser.get(LOGOUT.decode(), (b"sec-fetch-site", b"same-origin"))
    assert (response.status, field(response, b"location")) == (303, b"https://edge.test/bye")
    assert not browser.jar
    assert (await browser.get("/")).status == 303


async def test_paths_of_the_login_answer_nothing_else(rig: Rig) -> None:
    for path in (CALLBACK.encode(), LOGOUT):
        handler = rig.guard.paths()[path]
        for asked, status in (
            (request(path, method=b"DELETE"), 405),
            (request(path, method=b"HEAD"), 405),
            (request(path + b"/x"), 404),
            (request(path, early=True), 425),
        ):
            answer: Any = handler(asked)
            response = answer if isinstance(answer, Response) else await answer
            assert response.status == status
            assert (response.body is None) is (asked.method == b"HEAD")


# --- who is redirected, and where to ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ((), b"POST"),
        ((), b"HEAD"),
        ((), b"CONNECT"),
        (((b"sec-fetch-mode", b"cors"),), b"GET"),
        (((b"sec-fetch-mode", b"no-cors"),), b"GET"),
        (((b"x-requested-with", b"XMLHttpRequest"),), b"GET"),
        (((b"accept", b"application/json"),), b"GET"),
        (((b"accept", b"application/json, */*"),), b"GET"),
        (((b"accept", b"image/avif"),), b"GET"),
    ],
)
async def test_scripts_and_programs_get_a_401(rig: Rig, fields: tuple[Field, ...], method: bytes) -> None:
    response = await rig.around(request(b"/", *fields, method=method))
    assert response.status == 401
    assert field(response, b"www-authenticate") == b'Cookie realm="people"'
    assert field(response, b"set-cookie") is None
    assert not rig.servers.asked


@pytest.mark.parametrize(
    "fields",
    [
        ((b"sec-fetch-mode", b"navigate"), (b"accept", b"text/html,application/xml;q=0.9,*/*;q=0.8")),
        ((b"accept", b"*/*"),),
    ],
)
async def test_people_are_redirected(rig: Rig, fields: tuple[Field, ...]) -> None:
    assert (await rig.around(request(b"/", *fields))).status == 303


@pytest.mark.parametrize(
    ("target", "returned"),
    [
        (b"/a?b=c&d", "/a?b=c&d"),
        (b"//evil.test/x", "/"),
        (b"/\\evil.test", "/"),
        (b"/%2f/evil", "/%2f/evil"),
        (b"/a\xff", "/"),
        (b"/a|b", "/a|b"),
        (b"/" + b"a" * 1023, "/" + "a" * 1023),
        (b"/" + b"a" * 1024, "/"),
    ],
)
async def test_a_login_never_leads_to_another_host(rig: Rig, target: bytes, returned: str) -> None:
    assert login.target_of(request(target)) == returned
    browser = Browser(rig)
    location = field(await browser.sign_in(target.decode("latin-1")), b"location") if target.isascii() else None
    assert location in (None, b"https://edge.test" + returned.encode())


@given(st.binary(max_size=40))
def test_every_target_is_a_path_of_this_host(rest: bytes) -> None:
    found = login.target_of(request(b"/" + rest))
    assert urlsplit("https://edge.test" + found).netloc == "edge.test"
    assert urlsplit(found).netloc == ""
    assert not re.match(r"/[/\\]", found)


async def test_the_provider_is_reached_without_tls_only_where_permitted() -> None:
    document = {name: url.replace("https://provider.test", "http://127.0.0.1:9") for name, url in METADATA.items()}
    found = login.provider_of(json.dumps(document).encode(), "http://127.0.0.1:9", insecure=False)
    attempt = login.Attempt("s", "n", "v" * 43, "/", 0)
    url = login.authorization_url(found, "edge", "https://edge.test/cb", ["openid"], attempt)
    assert url.startswith("http://127.0.0.1:9/authorize?")
