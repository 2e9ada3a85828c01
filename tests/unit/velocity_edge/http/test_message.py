"""A header section is a valid request or Malformed is raised, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.http.message import Head, Malformed, check_trailers, field_section_size, parse_head

GOOD = {b":method": b"GET", b":scheme": b"https", b":authority": b"a.example", b":path": b"/"}

names = st.one_of(
    st.sampled_from([*GOOD, b"host", b"content-length", b"te", b"connection", b"cookie", b"X", b"", b"a b", b":x"]),
    st.binary(max_size=6),
)
values = st.one_of(
    st.sampled_from([b"GET", b"https", b"/", b"a.example", b"5", b"trailers", b" x", b"x ", b"*"]),
    st.binary(max_size=6),
)


@given(st.lists(st.tuples(names, values), max_size=9))
def test_any_section_is_a_request_or_malformed(section: list[tuple[bytes, bytes]]) -> None:
    try:
        head = parse_head(section)
    except Malformed:
        return
    assert isinstance(head, Head)
    assert head.method
    assert head.authority
    assert head.method == b"CONNECT" or head.path[:1] in (b"/", b"*")
    for name, value in head.fields:
        assert name == name.lower()
        assert not set(name + value) & set(b"\r\n\x00")
        assert not name.startswith(b":")
        assert name not in (b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"proxy-connection")
        assert value == value.strip(b" \t")


@given(
    st.permutations(list(GOOD.items())), st.lists(st.tuples(st.just(b"x-a"), st.sampled_from([b"", b"1"])), max_size=3)
)
def test_pseudo_headers_come_in_any_order_but_first(
    pseudo: list[tuple[bytes, bytes]], fields: list[tuple[bytes, bytes]]
) -> None:
    head = parse_head([*pseudo, *fields])
    assert (head.method, head.scheme, head.authority, head.path) == (b"GET", b"https", b"a.example", b"/")
    assert head.fields == fields
    if fields:
        with pytest.raises(Malformed):
            parse_head([*fields, *pseudo])


def test_host_replaces_authority_and_must_not_contradict_it() -> None:
    without = [(k, v) for k, v in GOOD.items() if k != b":authority"]
    assert parse_head([*without, (b"host", b"b.example")]).authority == b"b.example"
    assert parse_head([*GOOD.items(), (b"host", b"a.example")]).authority == b"a.example"
    for bad in ([*GOOD.items(), (b"host", b"b.example")], without, [*without, (b"host", b"")]):
        with pytest.raises(Malformed):
            parse_head(bad)


def test_connect_has_an_authority_and_nothing_else() -> None:
    assert parse_head([(b":method", b"CONNECT"), (b":authority", b"a:443")]).path == b""
    with pytest.raises(Malformed):
        parse_head([(b":method", b"CONNECT"), (b":authority", b"a:443"), (b":path", b"/")])


def test_content_length_may_not_be_repeated() -> None:
    assert parse_head([*GOOD.items(), (b"content-length", b"05")]).content_length == 5
    for values_ in ([b"5", b"6"], [b"5", b"5"], [b"+5"], [b"5, 5"], [b""], [b"9" * 19], [b"5\xb2"]):
        with pytest.raises(Malformed):
            parse_head([*GOOD.items(), *((b"content-length", value) for value in values_)])


def test_trailers_have_no_pseudo_headers() -> None:
    check_trailers([(b"x-sum", b"1")])
    with pytest.raises(Malformed):
        check_trailers([(b":path", b"/")])


def test_the_size_of_a_section_is_that_of_the_rfc() -> None:
    assert field_section_size([(b"a", b"bc"), (b"", b"")]) == 3 + 32 + 32
