"""Required claims are compared as JSON has them; a forwarded claim can split no request and forge no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.http.message import check_trailers
from workers.middleware.auth.claims import MAX_FIELD_BYTES, Scalar, UnusableClaim, claim, fields_of, missing

CLAIMS: dict[str, Any] = {
    "sub": "alice",
    "admin": True,
    "level": 3,
    "groups": ["staff", "ops"],
    "scope": "read write",
    "realm_access": {"roles": ["dev"]},
    "https://example.com/roles": ["lead"],
    "none": None,
}


@pytest.mark.parametrize(
    ("required", "lacks"),
    [
        ({"sub": ["alice", "bob"]}, None),
        ({"sub": ["bob"]}, "sub"),
        ({"sub": ["ali"]}, "sub"),
        ({"groups": ["ops"]}, None),
        ({"groups": ["op"]}, "groups"),
        ({"scope": ["write"]}, None),
        ({"scope": ["rit"]}, "scope"),
        ({"realm_access.roles": ["dev"]}, None),
        ({"realm_access.roles": ["ops"]}, "realm_access.roles"),
        ({"https://example.com/roles": ["lead"]}, None),
        ({"admin": [True]}, None),
        ({"admin": [1]}, "admin"),
        ({"level": [3]}, None),
        ({"level": [True]}, "level"),
        ({"sub": []}, None),
        ({"email": []}, "email"),
        ({"none": []}, "none"),
        ({"sub.alice": []}, "sub.alice"),
        ({"sub": ["alice"], "groups": ["x"]}, "groups"),
    ],
)
def test_the_first_claim_that_is_missing(required: dict[str, list[Scalar]], lacks: str | None) -> None:
    assert missing(CLAIMS, required) == lacks


def test_a_key_with_dots_comes_before_a_path() -> None:
    assert claim({"a.b": 1, "a": {"b": 2}}, "a.b") == 1


def test_claims_become_fields() -> None:
    forward = {name: name.encode() for name in ("sub", "admin", "level", "groups", "realm_access", "none", "absent")}
    assert dict(fields_of(CLAIMS, forward)) == {
        b"sub": b"alice",
        b"admin": b"true",
        b"level": b"3",
        b"groups": b"staff,ops",
        b"realm_access": b'{"roles":["dev"]}',
    }


def test_an_element_cannot_look_like_two() -> None:
    assert fields_of({"g": ["a,admin", "50%"]}, {"g": b"x"}) == [(b"x", b"a%2Cadmin,50%25")]


@pytest.mark.parametrize(
    "value", ["a\r\nx-admin: 1", "a\nb", "a\0b", ["ok", "a\rb"], "\x7f", "x" * (MAX_FIELD_BYTES + 1)]
)
def test_what_cannot_be_a_field_is_refused(value: object) -> None:
    with pytest.raises(UnusableClaim, match="'name'"):
        fields_of({"name": value}, {"name": b"x"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_every_value_is_a_well_formed_field_or_refused(value: Any) -> None:
    try:
        fields = fields_of({"c": value}, {"c": b"x"})
    except UnusableClaim:
        return
    check_trailers(fields)
