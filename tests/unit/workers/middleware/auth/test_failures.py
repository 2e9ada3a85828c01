"""A client that guesses has to wait, alone with its network; what is remembered of clients is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.site import Clock
from workers.middleware.auth.failures import MAX_CLIENTS, Failures


def test_after_some_failures_a_client_waits_until_one_is_forgotten() -> None:
    clock = Clock(0.0)
    failures = Failures(10, clock)
    for _ in range(10):
        assert failures.wait_s(b"a") == 0
        failures.add(b"a")
    assert failures.wait_s(b"a") == 6
    assert failures.wait_s(b"b") == 0
    clock.now_s += 5.9
    assert failures.wait_s(b"a") == 1
    clock.now_s += 0.1
    assert failures.wait_s(b"a") == 0
    failures.add(b"a")
    assert failures.wait_s(b"a") == 6
    clock.now_s += 60
    assert failures.wait_s(b"a") == 0


def test_what_was_no_failure_is_taken_back() -> None:
    failures = Failures(2, Clock(0.0))
    for _ in range(20):
        assert failures.wait_s(b"a") == 0
        failures.add(b"a")
        failures.take_back(b"a")
    assert len(failures) == 0
    failures.add(b"a")
    failures.add(b"a")
    failures.take_back(b"a")
    assert failures.wait_s(b"a") == 0
    failures.add(b"a")
    assert failures.wait_s(b"a") > 0


def test_clients_are_bounded_and_the_one_that_failed_longest_ago_is_forgotten() -> None:
    failures = Failures(1, Clock(0.0))
    failures.add(b"first")
    failures.add(b"second")
    for i in range(MAX_CLIENTS - 2):
        failures.add(b"%d" % i)
    failures.add(b"second")
    failures.add(b"one more")
    assert len(failures) == MAX_CLIENTS
    assert failures.wait_s(b"first") == 0
    assert failures.wait_s(b"second") > 0


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60), st.integers(1, 20))
def test_in_no_minute_are_there_more_tries_than_twice_the_limit(steps: list[tuple[float, bool]], limit: int) -> None:
    clock = Clock(0.0)
    failures = Failures(limit, clock)
    tried: list[float] = []
    for pause_s, waits in steps:
        clock.now_s += failures.wait_s(b"a") if waits else pause_s
        if failures.wait_s(b"a") == 0:
            failures.add(b"a")
            tried.append(clock.now_s)
    for at_s in tried:
        assert sum(at_s <= other <= at_s + 60 for other in tried) <= 2 * limit
