"""No field of a connection passes in either direction, and nothing malformed is written or passed on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from velocity_edge.http.message import Malformed
from velocity_edge.http.upstreams import ForwardRequest
from workers.proxy.client.answers import edit_of
from workers.proxy.client.fields import request_head, response_fields, trailer_fields

PLAIN = ForwardRequest(b"GET", b"/a?b", b"a.test", [(b"accept", b"*/*")])


def with_fields(*fields: tuple[bytes, bytes]) -> ForwardRequest:
    return replace(PLAIN, fields=list(fields))


def test_fields_are_dropped_and_added() -> None:
    request = replace(with_fields((b"a", b"1"), (b"b", b"2")), drop=[b"a"], add=[(b"c", b"3")])
    assert request_head(request, b"http", None).fields == [(b"b", b"2"), (b"c", b"3")]


@pytest.mark.parametrize(
    "name", [b"keep-alive", b"proxy-connection", b"upgrade", b"transfer-encoding", b"host", b"x-a"]
)
def test_fields_of_the_clients_connection_do_not_reach_the_upstream(name: bytes) -> None:
    request = with_fields((b"connection", b"close, X-A"), (name, b"x"), (b"kept", b"1"))
    assert request_head(request, b"http", None).fields == [(b"kept", b"1")]


def test_te_trailers_is_kept_and_other_transfer_codings_are_not() -> None:
    assert request_head(with_fields((b"te", b"trailers")), b"http", None).fields == [(b"te", b"trailers")]
    assert request_head(with_fields((b"te", b"gzip")), b"http", None).fields == []


@pytest.mark.parametrize(
    "request_",
    [
        replace(PLAIN, target=b"/a b"),
        replace(PLAIN, target=b"/a\r\nx: y"),
        replace(PLAIN, target=b"http://b.test/"),
        replace(PLAIN, authority=b"a.test\r\nx: y"),
        replace(PLAIN, authority=b"u@a.test"),
        replace(PLAIN, method=b"GET /"),
        replace(PLAIN, method=b""),
        replace(PLAIN, method=b"CONNECT"),
        replace(PLAIN, protocol=b"webtransport"),
        replace(PLAIN, add=[(b"x", b"a\r\nb")]),
        replace(PLAIN, add=[(b"x", b"a\0")]),
        replace(PLAIN, add=[(b"x y", b"a")]),
        replace(PLAIN, add=[(b"", b"a")]),
        replace(PLAIN, add=[(b"X", b"a")]),
        replace(PLAIN, add=[(b":path", b"/b")]),
        replace(PLAIN, add=[(b"transfer-encoding", b"chunked")]),
        replace(PLAIN, fields=[(b"content-length", b"5"), (b"content-length", b"6")]),
        replace(PLAIN, fields=[(b"content-length", b"+5")]),
        replace(PLAIN, fields=[(b"content-length", b"5")]),
    ],
)
def test_what_is_not_well_formed_is_not_written(request_: ForwardRequest) -> None:
    with pytest.raises(ValueError, match=r"^cannot "):
        request_head(request_, b"http", None)


@pytest.mark.parametrize(
    ("method", "fields", "length", "written"),
    [
        (b"GET", [], None, None),
        (b"POST", [], None, b"0"),
        (b"PUT", [(b"content-length", b"0")], None, b"0"),
        (b"POST", [], 7, b"7"),
        (b"POST", [(b"content-length", b"9")], -1, b"9"),
        (b"POST", [], -1, None),
    ],
)
def test_the_length_of_the_body_is_announced_once(
    method: bytes, fields: list[tuple[bytes, bytes]], length: int | None, written: bytes | None
) -> None:
    head = request_head(replace(PLAIN, method=method, fields=fields), b"http", length)
    assert [value for name, value in head.fields if name == b"content-length"] == ([] if written is None else [written])


@pytest.mark.parametrize(("length", "expects"), [(None, False), (0, False), (-1, True), (5, True)])
def test_an_expectation_is_passed_on_only_with_a_body(length: int | None, expects: bool) -> None:
    head = request_head(replace(PLAIN, method=b"POST", fields=[(b"expect", b"100-continue")]), b"http", length)
    assert head.expects is expects
    assert ((b"expect", b"100-continue") in head.fields) is expects


def test_the_key_of_a_websocket_is_not_the_clients() -> None:
    request = replace(
        with_fields((b"sec-websocket-key", b"x"), (b"sec-websocket-protocol", b"chat")),
        method=b"CONNECT",
        protocol=b"websocket",
    )
    head = request_head(request, b"http", -1)
    assert head.tunnel
    assert head.fields == [(b"sec-websocket-protocol", b"chat")]


def test_fields_of_the_upstreams_connection_do_not_reach_the_client() -> None:
    received = [(b"connection", b"X-B"), (b"x-b", b"1"), (b"keep-alive", b"5"), (b"upgrade", b"h2c"), (b"c", b"1")]
    assert response_fields(200, received, 1000, 10) == [(b"c", b"1")]


@pytest.mark.parametrize(
    "fields",
    [[(b"a", b"\x01")], [(b"a", b"x\x7f")], [(b"A", b"1")], [(b"a", b"1")] * 11, [(b"a", b"b" * 1000)]],
)
def test_a_response_that_http3_could_not_carry_or_that_is_too_large_is_refused(
    fields: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(Malformed):
        response_fields(200, fields, 1000, 10)


def test_only_trailers_that_may_follow_a_body_pass() -> None:
    received = [(b"grpc-status", b"0"), (b"content-length", b"5"), (b"host", b"a"), (b"transfer-encoding", b"chunked")]
    assert trailer_fields(received, 1000, 10) == [(b"grpc-status", b"0")]


def test_changes_of_the_response_are_those_that_were_asked_for() -> None:
    assert edit_of(PLAIN) is None
    edit = edit_of(replace(PLAIN, response_remove=[b"server"], response_default=[(b"vary", b"a")]))
    assert edit is not None
    assert edit.apply([(b"server", b"x"), (b"b", b"1")]) == [(b"b", b"1"), (b"vary", b"a")]
