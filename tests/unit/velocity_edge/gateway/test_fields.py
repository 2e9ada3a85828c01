"""No field of one side's connection reaches the other side, and the node learns from the gateway who asks."""

from __future__ import annotations

import pytest

from velocity_edge.gateway.fields import looped, request_fields, response_fields


def asked(*fields: tuple[str, str]) -> list[tuple[str, str]]:
    return request_fields(fields, "192.0.2.7", "a.test:8080", "http")


FROM_HERE = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "a.test:8080")]


def test_fields_pass_in_lower_case_and_say_who_asks() -> None:
    assert asked(("Accept", "*/*"), ("Accept", "a/b")) == [
        ("accept", "*/*"),
        ("accept", "a/b"),
        *FROM_HERE,
        ("via", "1.1 velocity-gateway"),
    ]


@pytest.mark.parametrize(
    "name",
    ["Host", "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "TE", "Expect", "X-A"],
)
def test_fields_of_the_clients_connection_end_here(name: str) -> None:
    fields = asked(("Connection", "close, x-a"), (name, "x"), ("Kept", "1"))
    assert [field[0] for field in fields] == ["kept", *(name for name, _ in FROM_HERE), "via"]


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "X-Real-IP"])
def test_a_client_cannot_say_that_it_is_someone_else(name: str) -> None:
    assert asked((name, "198.51.100.1"))[:-1] == FROM_HERE


def test_via_grows_and_shows_a_circle() -> None:
    fields = asked(("Via", "1.0 a"), ("Via", "1.1 b"))
    assert fields[-1] == ("via", "1.0 a, 1.1 b, 1.1 velocity-gateway")
    seen: list[tuple[str, str]] = []
    for rounds in range(9):
        assert looped(seen) is (rounds >= 8)
        seen = asked(*seen)


def test_trailers_are_asked_for_only_where_the_client_does() -> None:
    assert ("te", "trailers") in asked(("TE", "trailers, deflate"))
    assert not [field for field in asked(("TE", "deflate")) if field[0] == "te"]


def test_fields_of_the_nodes_connection_and_origin_end_here() -> None:
    received = [("alt-svc", 'h3=":443"'), ("connection", "x-b"), ("x-b", "1"), ("server", "node"), ("via", "3 a")]
    assert response_fields(received) == [("server", "node"), ("via", "3 a, 3 velocity-gateway")]
