"""Invariant: what tells an upstream who asks is written by the node, never by a client, in no spelling of its name."""

from __future__ import annotations

import socket
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.http import Request
from workers.proxy.fields import Changes, FieldRules, Outgoing, climbs, outgoing, target

PEER = (socket.inet_aton("203.0.113.7"), 50000)
OWN = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "x-request-id")


def request(*headers: tuple[bytes, bytes], path: bytes = b"/a", authority: bytes = b"example.com") -> Request:
    made = Request(b"GET", authority, path, headers, peer=PEER)
    made.id = b"id-1"
    return made


def sent(made: Request, changed: Outgoing) -> list[tuple[bytes, bytes]]:
    """What an engine sends: the fields without those that are dropped, and those that are added."""
    return [field for field in made.headers if field[0] not in changed.drop] + list(changed.add)


def fields(*headers: tuple[bytes, bytes], trusted: bool = False, **rules: object) -> dict[str, list[str]]:
    made = request(*headers)
    found: dict[str, list[str]] = {}
    for name, value in sent(made, outgoing(made, FieldRules(**rules), trusted=trusted)):  # type: ignore[arg-type]
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return found


def test_the_upstream_is_told_who_asks_for_what() -> None:
    assert fields((b"accept", b"*/*")) == {
        "accept": ["*/*"],
        "x-forwarded-for": ["203.0.113.7"],
        "x-real-ip": ["203.0.113.7"],
        "x-forwarded-proto": ["https"],
        "x-forwarded-host": ["example.com"],
        "x-forwarded-port": ["443"],
        "x-request-id": ["id-1"],
        "via": ["3 velocity-edge"],
    }


def test_the_port_is_that_of_the_authority() -> None:
    made = request(authority=b"example.com:8443")
    assert (b"x-forwarded-port", b"8443") in outgoing(made, FieldRules(), trusted=False).add


def test_fields_of_a_stranger_are_replaced() -> None:
    forged = [(name.encode(), b"forged") for name in (*OWN, "forwarded", "proxy", "x-forwarded-server")]
    found = fields(*forged)
    assert "forged" not in str(found)
    assert all(len(found[name]) == 1 for name in OWN)
    assert "forwarded" not in found
    assert "proxy" not in found


def test_fields_of_a_trusted_proxy_are_extended() -> None:
    headers = [
        (b"x-forwarded-for", b"198.51.100.1"),
        (b"x-forwarded-for", b"198.51.100.2"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"outer.example"),
        (b"via", b"2 outer"),
    ]
    found = fields(*headers, trusted=True)
    assert found["x-forwarded-for"] == ["198.51.100.1, 198.51.100.2, 203.0.113.7"]
    assert found["x-forwarded-proto"] == ["http"]
    assert found["x-forwarded-host"] == ["outer.example"]
    assert found["via"] == ["2 outer, 3 velocity-edge"]


def test_forwarded_is_added_where_it_is_wanted() -> None:
    assert fields(forwarded=True)["forwarded"] == ["for=203.0.113.7;host=example.com;proto=https"]
    found = fields((b"forwarded", b"for=198.51.100.1"), trusted=True, forwarded=True)
    assert found["forwarded"] == ["for=198.51.100.1, for=203.0.113.7;host=example.com;proto=https"]


def test_te_is_passed_on_only_as_trailers() -> None:
    assert fields((b"te", b"trailers"))["te"] == ["trailers"]
    assert fields((b"te", b"gzip;q=1, trailers"))["te"] == ["trailers"]
    assert "te" not in fields((b"te", b"gzip"))


def test_crumbs_of_cookies_are_one_field() -> None:
    assert fields((b"cookie", b"a=1"), (b"cookie", b"b=2"))["cookie"] == ["a=1; b=2"]


def test_early_data_is_marked_once() -> None:
    made = Request(b"GET", b"a", b"/", [(b"early-data", b"1")], peer=PEER, early=True)
    changed = outgoing(made, FieldRules(), trusted=False)
    assert [field for field in sent(made, changed) if field[0] == b"early-data"] == [(b"early-data", b"1")]


def test_changes_of_the_route_and_of_middleware_are_made() -> None:
    made = request((b"a", b"1"), (b"b", b"1"), (b"c", b"1"), (b"secret", b"1"), (b"x-user", b"forged"))
    made.upstream_fields.append((b"x-user", b"kim"))
    made.upstream_drop.append(b"secret")
    rules = FieldRules(set=((b"a", b"2"),), add=((b"b", b"2"),), remove=(b"c", b"x-real-ip"))
    found = sent(made, outgoing(made, rules, trusted=False))
    assert [value for name, value in found if name == b"a"] == [b"2"]
    assert [value for name, value in found if name == b"b"] == [b"1", b"2"]
    assert [value for name, value in found if name == b"x-user"] == [b"kim"]
    assert not {b"c", b"secret", b"x-real-ip"} & {name for name, _ in found}


@pytest.mark.parametrize("preserve", [True, False])
def test_the_host_is_the_clients_or_the_servers_or_the_one_that_is_set(preserve: bool) -> None:
    made = request()
    expected = b"example.com" if preserve else b""
    assert outgoing(made, FieldRules(preserve_host=preserve), trusted=False).authority == expected
    changed = outgoing(made, FieldRules(preserve_host=preserve, set=((b"host", b"inner"),)), trusted=False)
    assert changed.authority == b"inner"
    assert b"host" not in {name for name, _ in changed.add}


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-_", min_size=1, max_size=12).map(str.encode)
#: Every way to write a name of the node's with underscores.
SPELLED = st.sampled_from(
    sorted({"".join(parts).encode() for own in OWN for parts in product(*("-_" if c == "-" else c for c in own))})
)


@given(st.lists(st.tuples(NAMES | SPELLED, st.binary(max_size=8)), max_size=12))
def test_no_spelling_of_a_name_reaches_a_server(headers: list[tuple[bytes, bytes]]) -> None:
    made = request(*headers)
    changed = outgoing(made, FieldRules(set=((b"x-user", b"kim"),)), trusted=False)
    found = sent(made, changed)
    for own in (*OWN, "x-user"):
        values = [value for name, value in found if name.replace(b"_", b"-") == own.encode()]
        assert len(values) == 1
    # What the node has no opinion on arrives as it was sent.
    others = [field for field in headers if field[0] not in changed.drop]
    assert [field for field in found if field in others and field not in changed.add] == [
        field for field in others if field not in changed.add
    ]


@pytest.mark.parametrize(
    ("rules", "path", "base", "expected"),
    [
        (FieldRules(), b"/a/b?x=1", "", b"/a/b?x=1"),
        (FieldRules(), b"/a", "/base", b"/base/a"),
        (FieldRules(), b"*", "", b"*"),
        (FieldRules(strip_prefix="/api"), b"/api/v1?x", "", b"/v1?x"),
        (FieldRules(strip_prefix="/api"), b"/api", "", b"/"),
        (FieldRules(strip_prefix="/api/"), b"/api/", "/b", b"/b/"),
        (FieldRules(strip_prefix="/api"), b"/apix", "", b"/apix"),
        (FieldRules(rewrite="/fixed"), b"/a?q=%20", "", b"/fixed?q=%20"),
        (FieldRules(rewrite="/v2{path}"), b"/a/b%2Fc", "", b"/v2/a/b%2Fc"),
        (FieldRules(strip_prefix="/api", rewrite="/v2/{path}"), b"/api/x", "", b"/v2/x"),
        (FieldRules(rewrite="/users/{id}"), b"/u", "", b"/users/a%2Fb%3F"),
        (FieldRules(rewrite="/users/{other}"), b"/u", "", b"/users/{other}"),
    ],
)
def test_the_target_is_what_the_route_makes_of_it(rules: FieldRules, path: bytes, base: str, expected: bytes) -> None:
    made = request(path=path)
    made.params = {"id": "a/b?"}
    assert target(outgoing(made, rules, trusted=False).path, made.query, base) == expected


@pytest.mark.parametrize(
    "path",
    [
        b"/..",
        b"/a/../b",
        b"/a/%2e%2e/b",
        b"/a/%2E./b",
        b"/a/.%2e",
        b"/a%2f..%2fb",
        b"/a/..%5cb",
        b"/a\\..\\b",
        b"/a/..;x=1/b",
        b"/a/%2e%2e%3b/b",
    ],
)
def test_a_path_that_climbs_is_found(path: bytes) -> None:
    assert climbs(path)


@pytest.mark.parametrize("path", [b"/", b"/a..b", b"/...", b"/a/..b", b"/%2e", b"/a/./b", b"/a%2fb", b"*"])
def test_a_path_that_does_not_climb_passes(path: bytes) -> None:
    assert not climbs(path)


def test_an_unknown_expectation_is_not_passed_on() -> None:
    assert "expect" not in fields((b"expect", b"200-ok"))
    assert fields((b"expect", b"100-Continue"))["expect"] == ["100-Continue"]


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            (b"te", b"via", b"cookie", b"expect", b"x-forwarded-for", b"x_real_ip", b"x-request-id", b"accept")
        ),
        st.sampled_from((b"a", b"trailers", b"b, c")),
    ),
    max_size=4,
)


@given(
    st.lists(
        st.tuples(HEADERS, st.sampled_from((b"a.test", b"b.test:8443")), st.booleans(), st.booleans()), max_size=6
    ),
    st.sampled_from(
        (
            FieldRules(),
            FieldRules(preserve_host=True, forwarded=True),
            FieldRules(strip_prefix="/api", set=((b"x-request-id", b"own"), (b"host", b"other.test"))),
            FieldRules(via=False, add=((b"x-extra", b"1"),), remove=(b"accept",)),
        )
    ),
)
def test_what_is_kept_between_requests_changes_nothing(
    asked: list[tuple[list[tuple[bytes, bytes]], bytes, bool, bool]], rules: FieldRules
) -> None:
    """`Changes` keeps what requests have in common: each gets exactly what `outgoing` finds for it alone."""
    changes = Changes(rules)
    for number, (headers, authority, trusted, other_peer) in enumerate([*asked, *asked]):
        peer = (b"\x0a\0\0\x02" if other_peer else b"\x0a\0\0\x01", 1234)
        request = Request(b"GET", authority, b"/api/%d?q" % number, headers, peer=peer)
        request.id = b"id-%d" % number
        if number % 3 == 2:
            request.upstream_fields = [(b"x-user", b"u")]
        assert changes.of(request, trusted=trusted) == outgoing(request, rules, trusted=trusted)
