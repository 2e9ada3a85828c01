"""Invariant: every policy chooses only among the candidates, by their weights; a hash moves only what it must."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.proxy.balance import Balancer, cookie, hash_key, sticky_value

POLICIES = ("round_robin", "least_connections", "random_two", "ip_hash", "header_hash", "cookie_hash")


@dataclass(frozen=True)
class Server:
    name: str
    weight: int = 1
    running: int = 0


def balancer(policy: str = "round_robin") -> Balancer:
    return Balancer(policy, Random(1).random)


SERVERS = st.lists(
    st.builds(Server, st.text(max_size=8), st.integers(1, 1000), st.integers(0, 50)),
    min_size=1,
    max_size=8,
    unique_by=lambda server: server.name,
)


@given(st.sampled_from(POLICIES), st.lists(SERVERS, min_size=1, max_size=10), st.none() | st.binary(max_size=8))
def test_the_choice_is_one_of_the_candidates(policy: str, rounds: list[list[Server]], key: bytes | None) -> None:
    chooser = balancer(policy)
    for candidates in rounds:
        assert chooser.choose(candidates, key) in candidates


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_round_robin_gives_each_its_weight_in_each_round(weights: list[int]) -> None:
    servers = [Server(str(i), weight) for i, weight in enumerate(weights)]
    chooser = balancer()
    for _ in range(3):
        counts = Counter(chooser.choose(servers, None).name for _ in range(sum(weights)))
        assert counts == {server.name: server.weight for server in servers}


def test_round_robin_does_not_choose_the_heavy_one_in_a_row() -> None:
    servers = [Server("a", 5), Server("b"), Server("c")]
    chooser = balancer()
    assert "".join(chooser.choose(servers, None).name for _ in range(7)) == "aabacaa"


def test_least_connections_follows_weights_and_lets_equals_take_turns() -> None:
    chooser = balancer("least_connections")
    assert chooser.choose([Server("a", 1, 1), Server("b", 1, 0)], None).name == "b"
    assert chooser.choose([Server("a", 4, 2), Server("b", 1, 0)], None).name == "a"
    equal = [Server("a"), Server("b"), Server("c", running=9)]
    assert [chooser.choose(equal, None).name for _ in range(4)] == ["a", "b", "a", "b"]


def test_random_two_avoids_the_most_loaded() -> None:
    servers = [Server("a", running=0), Server("b", running=0), Server("c", running=100)]
    chooser = balancer("random_two")
    counts = Counter(chooser.choose(servers, None).name for _ in range(300))
    assert counts["c"] == 0
    assert min(counts["a"], counts["b"]) > 100


@pytest.mark.parametrize("policy", ["ip_hash", "header_hash", "cookie_hash"])
def test_a_key_keeps_its_server_and_weights_are_followed(policy: str) -> None:
    servers = [Server("http://a"), Server("http://b", 3), Server("http://c")]
    keys = [str(i).encode() for i in range(3000)]
    first, second = balancer(policy), balancer(policy)
    chosen = {key: first.choose(servers, key).name for key in keys}
    assert chosen == {key: second.choose(servers[::-1], key).name for key in keys}
    counts = Counter(chosen.values())
    assert 1650 < counts["http://b"] < 1950
    assert 500 < counts["http://a"] < 700


def test_a_server_that_goes_moves_only_its_own_keys() -> None:
    servers = [Server("a"), Server("b"), Server("c"), Server("d")]
    keys = [str(i).encode() for i in range(2000)]
    chooser = balancer("ip_hash")
    before = {key: chooser.choose(servers, key).name for key in keys}
    after = {key: chooser.choose(servers[:3], key).name for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != "d")
    moved = Counter(after[key] for key in keys if before[key] == "d")
    assert min(moved.values()) > 100


def test_a_request_without_a_key_is_spread_by_round_robin() -> None:
    chooser = balancer("header_hash")
    assert [chooser.choose([Server("a"), Server("b")], None).name for _ in range(4)] == ["a", "b", "a", "b"]


def test_the_key_of_an_address_is_its_64_of_ipv6() -> None:
    one, two = bytes(range(16)), bytes(range(8)) + bytes(8)
    assert hash_key("ip_hash", one, None, None) == hash_key("ip_hash", two, None, None)
    assert hash_key("ip_hash", b"\1\2\3\4", None, None) == b"\1\2\3\4"
    assert hash_key("header_hash", one, b"h", b"c") == b"h"
    assert hash_key("cookie_hash", one, b"h", b"c") == b"c"
    assert hash_key("round_robin", one, b"h", b"c") is None


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"a=1; b=2", b"2"),
        (b"b=2", b"2"),
        (b"a=1, b=2", b"2"),
        (b'b="2"', b"2"),
        (b"bb=1; ab=3", None),
        (b"b", None),
        (b"b=", b""),
        (None, None),
    ],
)
def test_a_cookie_is_found_by_its_whole_name(header: bytes | None, value: bytes | None) -> None:
    assert cookie(header, b"b") == value


def test_a_sticky_value_differs_by_server_and_does_not_contain_it() -> None:
    assert sticky_value("http://10.0.0.1") != sticky_value("http://10.0.0.2")
    assert "10.0.0.1" not in sticky_value("http://10.0.0.1")
