"""A bearer token is verified once and its claims are used; whatever is wrong with it is a 401 of RFC 6750."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.support.guards import Around, Servers, decisions, field, request, section
from tests.support.jwts import AUDIENCE, ISSUER, NOW_S, jwk, key_set, token
from tests.support.site import Clock
from velocity_edge.config.middlewares.jwt import Jwt
from workers.measures import Measures
from workers.middleware.auth import tokens
from workers.middleware.auth.document import PAUSE_S
from workers.middleware.auth.jwt import MAX_REMEMBERED, REMEMBER_S, JwtGuard
from workers.middleware.auth.key_set import parse_set
from workers.middleware.auth.provider import key_document

KEYS_URL: Final = "https://issuer.test/keys"


class Rig:
    """A guard, with keys of a file or (*remote*) of a server."""

    def __init__(self, *, remote: bool = False, **settings: Any) -> None:
        source = {"jwks_url": KEYS_URL} if remote else {"jwks": "/keys"}
        more = {"issuer": ISSUER, "audience": [AUDIENCE], **source, **settings}
        self.section = section(Jwt, name="api", kind="jwt", **more)
        self.clock, self.measures, self.servers = Clock(NOW_S), Measures(), Servers()
        self.servers.has(KEYS_URL, key_set(jwk("EC", "k1")))
        self.keys = key_document(KEYS_URL, self.servers, self.clock)
        keys: Any = self.keys if remote else parse_set(key_set(jwk("EC", "k1")))
        self.guard = JwtGuard(self.section, self.measures, self.clock, keys)
        self.around = Around(self.guard)

    async def get(self, text: bytes | None, target: bytes = b"/") -> int:
        fields = [] if text is None else [(b"authorization", b"Bearer " + text)]
        return (await self.around(request(target, *fields))).status


async def test_a_valid_token_passes_with_its_claims() -> None:
    rig = Rig(claims={"groups": ["staff"]}, forward={"sub": "X-User"})
    assert await rig.get(token(groups=["staff"])) == 200
    (served,) = rig.around.served
    assert served.claims is not None
    assert served.claims["sub"] == "alice"
    assert served.upstream_fields == [(b"x-user", b"alice")]
    assert served.upstream_drop == []
    assert await rig.get(token(groups=["guests"])) == 403


@pytest.mark.parametrize("scheme", [b"bearer ", b"BEARER  "])
async def test_the_scheme_has_no_case(scheme: bytes) -> None:
    asked = request(b"/", (b"authorization", scheme + token()))
    assert (await Rig().around(asked)).status == 200


@pytest.mark.parametrize(
    ("fields", "challenge"),
    [
        ((), b'Bearer realm="api"'),
        (((b"authorization", b"Basic YTpi"),), b'Bearer realm="api"'),
        (((b"authorization", b"Bearer"),), b'Bearer realm="api"'),
        (
            ((b"authorization", b"Bearer x.y.z"),),
            b'Bearer realm="api", error="invalid_token", error_description="the token is not well-formed"',
        ),
        (
            ((b"authorization", b"Bearer " + token(exp=int(NOW_S) - 60)),),
            b'Bearer realm="api", error="invalid_token", error_description="the token has expired"',
        ),
        (
            ((b"authorization", b"Bearer " + token()), (b"authorization", b"Bearer " + token())),
            b'Bearer realm="api", error="invalid_token", error_description="the token is not well-formed"',
        ),
    ],
)
async def test_a_challenge_says_what_is_wrong(fields: tuple[tuple[bytes, bytes], ...], challenge: bytes) -> None:
    rig = Rig()
    response = await rig.around(request(b"/", *fields))
    assert (response.status, field(response, b"www-authenticate")) == (401, challenge)
    assert field(response, b"cache-control") == b"private, no-store"
    assert not rig.around.served


async def test_a_missing_claim_is_insufficient_scope() -> None:
    rig = Rig(claims={"scope": "write"})
    response = await rig.around(request(b"/", (b"authorization", b"Bearer " + token(scope="read"))))
    assert response.status == 403
    assert field(response, b"www-authenticate") == b'Bearer realm="api", error="insufficient_scope"'


async def test_tokens_of_other_places_are_taken_only_where_configured() -> None:
    cookie = request(b"/", (b"cookie", b"a=1; t=" + token()))
    query = request(b"/?a=1&t=" + token())
    header = request(b"/", (b"x-token", token()))
    for asked in (cookie, query, header):
        assert (await Rig().around(asked)).status == 401
    assert (await Rig(cookie="t").around(cookie)).status == 200
    assert (await Rig(query="t").around(query)).status == 200
    assert (await Rig(header="x-token").around(header)).status == 200


async def test_the_field_comes_first_and_can_be_hidden_from_upstreams() -> None:
    rig = Rig(cookie="t", hide_credentials=True)
    both = ((b"cookie", b"t=" + token()), (b"authorization", b"Bearer x"))
    assert (await rig.around(request(b"/", *both))).status == 401
    assert await rig.get(token()) == 200
    assert rig.around.served[0].upstream_drop == [b"authorization"]


# --- what is remembered -----------------------------------------------------------------------------------------------


@pytest.fixture(name="verified")
def _verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every token whose signature was looked at."""
    seen: list[bytes] = []
    real = tokens._verified

    def counted(text: bytes, *rest: Any) -> bytes:
        seen.append(text)
        return real(text, *rest)

    monkeypatch.setattr(tokens, "_verified", counted)
    return seen


async def test_a_token_is_verified_once_in_a_minute_and_never_outlives_itself(verified: list[bytes]) -> None:
    rig = Rig(leeway="10s")
    short, long = token(exp=int(NOW_S) + 20), token(exp=int(NOW_S) + 3600)
    for _ in range(3):
        assert (await rig.get(short), await rig.get(long)) == (200, 200)
    assert verified == [short, long]
    rig.clock.now_s += 29.9
    assert await rig.get(short) == 200
    rig.clock.now_s += 0.1
    assert await rig.get(short) == 401
    rig.clock.now_s = NOW_S + REMEMBER_S - 0.1
    assert await rig.get(long) == 200
    assert verified.count(long) == 1
    rig.clock.now_s = NOW_S + REMEMBER_S
    assert await rig.get(long) == 200
    assert verified.count(long) == 2


async def test_an_invalid_token_is_not_remembered(verified: list[bytes]) -> None:
    rig = Rig()
    forged = token()[:-8] + b"AAAAAAAA"
    assert [await rig.get(forged), await rig.get(forged)] == [401, 401]
    assert len(verified) == 2


async def test_what_is_remembered_is_bounded() -> None:
    rig = Rig()
    rig.guard._remembered_with = rig.guard._keys
    for i in range(MAX_REMEMBERED + 10):
        rig.guard._remember(b"%d" % i, rig.guard._keys, {"exp": NOW_S + 60})  # type: ignore[arg-type]
    assert len(rig.guard._remembered) == MAX_REMEMBERED


# --- keys of a server -------------------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_and_a_rotation_is_noticed() -> None:
    rig = Rig(remote=True)
    known = token()
    assert [await rig.get(known), await rig.get(token(sub="bob"))] == [200, 200]
    assert rig.servers.count(KEYS_URL) == 1
    rig.servers.has(KEYS_URL, key_set(jwk("OKP", "k2")))
    rig.clock.now_s += PAUSE_S
    assert await rig.get(token("OKP", "EdDSA", "k2")) == 200
    assert await rig.get(token(sub="carol")) == 401, "the key was withdrawn"
    assert await rig.get(known) == 401, "also for a token that was remembered"


async def test_invented_keys_ask_the_server_rarely() -> None:
    rig = Rig(remote=True)
    assert await rig.get(token()) == 200
    for i in range(20):
        assert await rig.get(token(kid=f"invented-{i}")) == 401
    assert rig.servers.count(KEYS_URL) == 1
    rig.clock.now_s += PAUSE_S
    for i in range(20):
        assert await rig.get(token(kid=f"invented-{i}")) == 401
    assert rig.servers.count(KEYS_URL) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys": []}'])
async def test_without_keys_nothing_passes(content: bytes) -> None:
    rig = Rig(remote=True)
    rig.servers.has(KEYS_URL, content)
    response = await rig.around(request(b"/", (b"authorization", b"Bearer " + token())))
    assert (response.status, field(response, b"retry-after")) == (503, b"5")
    assert not rig.around.served
    rig = Rig(remote=True)
    rig.servers.has(KEYS_URL, key_set(jwk("EC", "k1")), status=500)
    assert await rig.get(token()) == 503
    rig.servers.answers.clear()
    assert await rig.get(token()) == 503
    assert decisions(rig.measures) == {"unavailable": 2}
