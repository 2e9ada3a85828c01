"""A token is valid only with an allowed algorithm, a key of its kind, the right issuer and audience, in its time."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from tests.support.jwts import AUDIENCE, ISSUER, NOW_S, claims, jwk, key_set, private_key, public_pem, token
from workers.middleware.auth.key_set import (
    MAX_KEYS,
    MAX_TRIES,
    UnusableKeys,
    candidates,
    parse_pem,
    parse_secret,
    parse_set,
)
from workers.middleware.auth.tokens import (
    MAX_TOKEN_BYTES,
    InvalidToken,
    Key,
    Rules,
    TokenHeader,
    fits,
    header_of,
    verify,
)

ALL = frozenset(("RS256", "PS256", "ES256", "ES384", "EdDSA"))
RULES = Rules(ALL, ISSUER, frozenset((AUDIENCE,)), 30.0)
KEYS = parse_set(key_set(*(jwk(kind, f"k-{kind}") for kind in ("RSA", "EC", "EC-384", "OKP"))))
SECRET = b"0123456789abcdef0123456789abcdef"


def checked(text: bytes, rules: Rules = RULES, keys: tuple[Key, ...] = KEYS, now_s: float = NOW_S) -> dict[str, Any]:
    header = header_of(text, rules)
    return verify(text, header, candidates(keys, header), rules, now_s)


def part(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


@pytest.mark.parametrize(
    ("kind", "alg"), [("RSA", "RS256"), ("RSA", "PS256"), ("EC", "ES256"), ("EC-384", "ES384"), ("OKP", "EdDSA")]
)
@pytest.mark.parametrize("with_kid", [True, False])
def test_each_kind_of_key_verifies_its_tokens(kind: str, alg: str, with_kid: bool) -> None:
    assert checked(token(kind, alg, f"k-{kind}" if with_kid else None))["sub"] == "alice"


def test_a_token_without_signature_is_refused() -> None:
    for alg in ("none", "None", ""):
        for signature in (b"", b"AAAA"):
            text = b".".join((part({"alg": alg, "typ": "JWT"}), part(claims()), signature))
            with pytest.raises(InvalidToken, match="algorithm"):
                checked(text)


@pytest.mark.parametrize("material", [public_pem("RSA"), json.dumps(jwk("RSA")).encode()])
def test_a_public_key_is_never_the_secret_of_an_hmac(material: bytes) -> None:
    """Also where the configuration allows both: the key decides what it is for (RFC 8725 section 2.1)."""
    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims())
    mac = base64.urlsafe_b64encode(hmac.digest(material, signed, hashlib.sha256)).rstrip(b"=")
    with pytest.raises(InvalidToken, match="algorithm"):
        checked(signed + b"." + mac)
    assert not any(fits(key, "HS256") for key in KEYS)
    confused = Rules(ALL | {"HS256"}, ISSUER, frozenset((AUDIENCE,)), 30.0)
    for keys in (KEYS, parse_pem(public_pem("RSA"))):
        with pytest.raises(InvalidToken, match="signature"):
            checked(signed + b"." + mac, confused, keys)


def test_an_algorithm_that_is_not_allowed_is_refused_although_the_signature_is_right() -> None:
    with pytest.raises(InvalidToken, match="algorithm"):
        checked(token("RSA", "RS256", "k-RSA"), Rules(frozenset(("ES256",)), ISSUER, frozenset((AUDIENCE,)), 30.0))


def test_a_key_is_used_for_its_own_algorithm_alone() -> None:
    keys = parse_set(key_set(jwk("RSA", "k1", alg="PS256")))
    assert checked(token("RSA", "PS256"), keys=keys)["sub"] == "alice"
    with pytest.raises(InvalidToken):
        checked(token("RSA", "RS256"), keys=keys)


def test_the_curve_is_that_of_the_algorithm() -> None:
    """ES256 with a key of P-384 verifies nothing (RFC 7518 section 3.4)."""
    header = TokenHeader("ES256", None)
    assert candidates(parse_set(key_set(jwk("EC-384"))), header) == []
    assert candidates(parse_set(key_set(jwk("EC"))), header) != []


def test_another_key_of_the_same_kind_does_not_verify() -> None:
    other = parse_set(key_set({**jwk("EC", "k1"), **{"x": jwk("EC")["y"], "y": jwk("EC")["x"]}}, jwk("OKP", "k2")))
    with pytest.raises(InvalidToken, match="signature"):
        checked(token("EC", "ES256"), keys=other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iss": "https://other.test"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": [ISSUER]}, "issuer"),
        ({"aud": "other"}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": ["a", "b"]}, "audience"),
        ({"aud": {AUDIENCE: 1}}, "audience"),
        ({"exp": int(NOW_S) - 30}, "expired"),
        ({"exp": None}, "no usable exp"),
        ({"exp": "tomorrow"}, "no usable exp"),
        ({"exp": True}, "no usable exp"),
        ({"exp": float("nan")}, "no usable exp"),
        ({"exp": float("inf")}, "no usable exp"),
        ({"exp": 10**400}, "no usable exp"),
        ({"nbf": int(NOW_S) + 31}, "not valid yet"),
        ({"nbf": "x"}, "no usable nbf"),
        ({"iat": int(NOW_S) + 31}, "not valid yet"),
    ],
)
def test_claims_that_are_not_for_us_or_not_now_are_refused(changes: dict[str, Any], said: str) -> None:
    text = token("EC", "ES256", "k-EC", **changes)
    with pytest.raises(InvalidToken, match=said):
        checked(text)


def test_clocks_may_differ_by_the_leeway() -> None:
    assert checked(token("EC", "ES256", "k-EC", exp=int(NOW_S) - 29, nbf=int(NOW_S) + 30, iat=int(NOW_S) + 30))


def test_one_of_several_audiences_is_enough() -> None:
    assert checked(token("EC", "ES256", "k-EC", aud=["other", AUDIENCE]))


def test_what_is_critical_is_not_understood() -> None:
    for header in ({"crit": ["x"], "x": 1}, {"crit": ["b64"], "b64": True}):
        unsigned = part({"alg": "ES256", **header}) + b"." + part(claims()) + b".AAAA"
        with pytest.raises(InvalidToken):
            header_of(unsigned, RULES)


@given(st.binary(max_size=200) | st.text(".aAeyJ-_=", max_size=200).map(str.encode))
def test_no_text_is_more_than_invalid(text: bytes) -> None:
    with pytest.raises(InvalidToken):
        checked(text)


@given(st.data())
def test_a_token_with_one_character_changed_is_invalid(data: st.DataObject) -> None:
    text = token("OKP", "EdDSA", "k-OKP")
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(sorted(set(b"ABCDEFabcdef0123456789-_") - {text[at]})))
    with pytest.raises(InvalidToken):
        checked(text[:at] + bytes((other,)) + text[at + 1 :])


def test_a_long_token_is_not_parsed() -> None:
    with pytest.raises(InvalidToken, match="too long"):
        header_of(b"a" * (MAX_TOKEN_BYTES + 1), RULES)


def test_deep_json_is_invalid_and_no_error() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 20_000).rstrip(b"=")
    with pytest.raises(InvalidToken):
        header_of(deep + b".e30.AAAA", RULES)


# --- key sets ---------------------------------------------------------------------------------------------------------


def test_keys_that_are_not_for_signatures_are_left_out() -> None:
    unusable: list[Any] = [
        jwk("EC", "k", use="enc"),
        jwk("EC", "k", key_ops=["sign"]),
        jwk("RSA-1024", "weak"),
        {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).decode()},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!"},
        {"kty": "new"},
        {**jwk("EC"), "kid": 7},
        json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()))),
        "no key",
    ]
    assert [key.kid for key in parse_set(key_set(*unusable, jwk("EC", "good")))] == ["good"]
    for row in unusable:
        with pytest.raises(UnusableKeys):
            parse_set(key_set(row))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": []}', b"[" * 20_000])
def test_what_is_no_key_set_is_refused(content: bytes) -> None:
    with pytest.raises(UnusableKeys):
        parse_set(content)


def test_a_set_and_the_work_for_one_token_are_bounded() -> None:
    with pytest.raises(UnusableKeys):
        parse_set(key_set(*([jwk("EC")] * (MAX_KEYS + 1))))
    many = parse_set(key_set(*([jwk("EC")] * MAX_KEYS)))
    assert len(candidates(many, TokenHeader("ES256", None))) == MAX_TRIES


def test_a_kid_chooses() -> None:
    keys = parse_set(key_set(jwk("EC", "a"), jwk("EC", "b")))
    assert [key.kid for key in candidates(keys, TokenHeader("ES256", "b"))] == ["b"]
    assert candidates(keys, TokenHeader("ES256", "c")) == []


def test_files_have_a_public_key_or_a_long_secret() -> None:
    assert checked(token("RSA", "RS256", None), keys=parse_pem(public_pem("RSA")))
    for content in (b"", b"-----BEGIN PUBLIC KEY-----", public_pem("RSA-1024")):
        with pytest.raises(UnusableKeys):
            parse_pem(content)
    assert parse_secret(SECRET + b"\n")[0].material == SECRET
    with pytest.raises(UnusableKeys, match="32 bytes"):
        parse_secret(SECRET[:31] + b"\n")
    assert private_key("EC") is private_key("EC")
