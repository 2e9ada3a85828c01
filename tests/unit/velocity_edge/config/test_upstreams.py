"""Invariant: a server that cannot be reached as written is refused where it is written, with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from velocity_edge.config.section import all_problems
from velocity_edge.config.upstream_url import UpstreamUrl, Url, parse_upstream
from velocity_edge.config.upstreams import SYSTEM_ROOTS, Upstream


def upstream(**keys: object) -> Upstream:
    return TypeAdapter(Upstream).validate_python(keys, strict=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:8080", UpstreamUrl("http", "127.0.0.1", 8080)),
        ("http://127.0.0.1", UpstreamUrl("http", "127.0.0.1", 80)),
        ("https://App.example.com./base/", UpstreamUrl("https", "app.example.com", 443, "/base")),
        ("h2c://[0:0::1]:9000", UpstreamUrl("h2c", "::1", 9000)),
        ("http://localhost:4000/", UpstreamUrl("http", "localhost", 4000)),
        ("unix:/run/app.sock", UpstreamUrl("unix", "", 0, "", "/run/app.sock")),
        ("unix:///run/app.sock", UpstreamUrl("unix", "", 0, "", "/run/app.sock")),
        ("http://my_app:80", UpstreamUrl("http", "my_app", 80)),
    ],
)
def test_an_address_is_parsed_and_written_again(text: str, expected: UpstreamUrl) -> None:
    assert parse_upstream(text) == expected
    assert parse_upstream(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:8080",
        "ftp://a",
        "http://",
        "http:///x",
        "http://a:0",
        "http://a:65536",
        "http://a:",
        "http://user:secret@a",
        "http://a?x=1",
        "http://a/#b",
        "http://a/b c",
        "http://a\r\nb",
        "http://[::1",
        "http://[1.2.3.4x]",
        "http://::1:80",
        "http://1.2.3",
        "http://1.2.3.400",
        "http://*.example.com",
        "http://ä.example",
        "unix:run/app.sock",
        "unix:" + "/x" * 60,
        "unix:/a\0b",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^cannot use"):
        parse_upstream(text)


def test_a_secret_in_an_address_is_not_printed() -> None:
    with pytest.raises(ValueError, match="user information") as caught:
        parse_upstream("http://user:secret@a")
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_refused_or_normal(text: str) -> None:
    try:
        url = parse_upstream(text)
    except ValueError:
        return
    assert parse_upstream(str(url)) == url
    assert TypeAdapter(Url).validate_python(text) == str(url)


@pytest.mark.parametrize(
    ("keys", "place", "text"),
    [
        ({}, "upstream", "cannot be left out"),
        ({"upstream": "http://a", "upstreams": ["http://b"]}, "upstreams", "cannot be combined with upstream"),
        ({"upstreams": ["http://a", "http://a:80/"]}, "upstreams.1.url", "cannot use http://a twice"),
        ({"upstream": "http://a", "streaming": False}, "streaming", "cannot be false"),
        ({"upstream": "http://a", "protocol": "h2"}, "upstream", "cannot be combined with protocol 'h2'"),
        ({"upstream": "https://a", "protocol": "h2c"}, "upstream", "cannot be combined with protocol 'h2c'"),
        ({"upstream": "h2c://a", "protocol": "h1"}, "upstream", "cannot be combined with protocol 'h1'"),
        ({"upstream": "http://a", "tls": {"verify": False}}, "tls", "cannot be used without TLS"),
        ({"upstream": "https://a", "tls": {"certificate": "/c"}}, "tls.private_key", "cannot be left out"),
        ({"upstream": "https://a", "tls": {"ca": "/c", "verify": False}}, "tls.ca", "cannot be used without verif"),
        ({"upstream": "http://a", "timeouts": {"idle": 0}}, "timeouts.idle", "cannot be 0"),
        ({"upstream": "http://a", "lb": {"policy": "header_hash"}}, "lb.header", "cannot be left out"),
        ({"upstream": "http://a", "lb": {"cookie": "a"}}, "lb.cookie", "cannot be used with policy 'round_robin'"),
        (
            {"upstream": "http://a", "headers": {"request": {"set": {"Transfer-Encoding": "chunked"}}}},
            "headers.request.set",
            "cannot change 'transfer-encoding'",
        ),
        ({"upstream": "http://a", "strip_prefix": "/a", "rewrite": "/b"}, "strip_prefix", "cannot have an effect"),
    ],
)
def test_contradictions_are_refused_at_their_key(keys: dict[str, object], place: str, text: str) -> None:
    (problem,) = all_problems(upstream(**keys))
    assert ".".join(problem[0]) == place
    assert problem[1].startswith(text)


def test_servers_are_text_or_sections() -> None:
    several = upstream(upstreams=["http://a", {"url": "http://b", "weight": 3}])
    assert not list(all_problems(several))
    assert [(server.weight, url.host) for server, url in several.servers()] == [(1, "a"), (3, "b")]
    assert [url.host for _, url in upstream(upstreams="http://a").servers()] == ["a"]


def test_the_files_of_tls_and_of_names_are_needed() -> None:
    tls = {"ca": "/ca.pem", "certificate": "/c.pem", "private_key": "/k.pem"}
    found = {need.path: (need.where, need.required) for need in upstream(upstream="https://a", tls=tls).needs()}
    assert found == {
        Path("/ca.pem"): (("tls", "ca"), True),
        Path("/c.pem"): (("tls", "certificate"), True),
        Path("/k.pem"): (("tls", "private_key"), True),
        Path("/etc/resolv.conf"): (("upstream",), False),
        Path("/etc/hosts"): (("upstream",), False),
    }
    assert not list(upstream(upstream="http://127.0.0.1").needs())
    assert {need.path for need in upstream(upstream="https://127.0.0.1").needs()} == set(SYSTEM_ROOTS)
