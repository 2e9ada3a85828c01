"""Invariant: each request has an id of its own, which is safe in logs and header fields."""

import re

import pytest

from workers.serve.request_id import RequestIds


def test_new_ids_differ_between_requests_and_processes() -> None:
    ids = [RequestIds(bytes(5)), RequestIds(b"abcde")]
    made = [each.new() for each in ids for _ in range(100)]
    assert len(set(made)) == 200
    assert all(re.fullmatch(rb"[0-9a-f]{20}", each) for each in made)


def test_a_clients_id_is_used_only_where_it_is_trusted() -> None:
    ids, fields = RequestIds(bytes(5)), [(b"accept", b"*/*"), (b"x-request-id", b"0af7-65_1.a:/+=")]
    assert ids.of(fields, trust=True) == b"0af7-65_1.a:/+="
    assert ids.of(fields, trust=False) != b"0af7-65_1.a:/+="


@pytest.mark.parametrize("value", [b"", b"a b", b'"', b"a\nb", b"\xff", b"a" * 129, b"a,b"])
def test_an_unsafe_id_is_replaced(value: bytes) -> None:
    assert RequestIds(bytes(5)).of([(b"x-request-id", value)], trust=True) != value


def test_two_ids_are_none() -> None:
    fields = [(b"x-request-id", b"a"), (b"x-request-id", b"b")]
    assert RequestIds(bytes(5)).of(fields, trust=True) not in (b"a", b"b")
