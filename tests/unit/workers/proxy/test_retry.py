"""Invariant: nothing that a server may have seen is done twice, and retries stay within their budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.http.requests import Outcome
from workers.proxy.retry import FREE_RETRIES, Attempt, Budget, RetryRules, is_safe, wants_another

ALL = RetryRules(3, frozenset(Outcome))
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"BREW")


@given(
    st.builds(
        Attempt,
        st.sampled_from(METHODS),
        st.sampled_from(Outcome),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.integers(1, 5),
)
def test_only_what_cannot_happen_twice_is_tried_again(attempt: Attempt, number: int) -> None:
    if wants_another(ALL, attempt, number):
        assert number < 3
        assert not attempt.head_sent
        assert not attempt.body_sent
        unseen = attempt.outcome in (Outcome.CONNECT_FAILED, Outcome.CONNECT_TIMEOUT)
        assert unseen or (attempt.method not in (b"POST", b"PATCH", b"BREW") and not attempt.tunnel)


@pytest.mark.parametrize("method", METHODS)
def test_a_request_that_no_server_saw_is_always_safe(method: bytes) -> None:
    assert is_safe(Attempt(method, Outcome.CONNECT_FAILED))
    assert wants_another(RetryRules(), Attempt(method, Outcome.CONNECT_TIMEOUT), 1)


@pytest.mark.parametrize(
    ("attempt", "again"),
    [
        (Attempt(b"GET", Outcome.CLOSED_EARLY), False),
        (Attempt(b"GET", Outcome.CLOSED_EARLY, reused=True), True),
        (Attempt(b"POST", Outcome.CLOSED_EARLY, reused=True), False),
        (Attempt(b"GET", Outcome.CLOSED_EARLY, reused=True, tunnel=True), False),
        (Attempt(b"PUT", Outcome.CLOSED_EARLY, reused=True, body_sent=True), False),
        (Attempt(b"GET", Outcome.RESPONSE_TIMEOUT), False),
        (Attempt(b"GET", Outcome.CONNECT_FAILED), True),
    ],
)
def test_a_stale_connection_is_replaced_whatever_the_route_says(attempt: Attempt, again: bool) -> None:
    rules = RetryRules(3, frozenset((Outcome.CONNECT_FAILED,)))
    assert wants_another(rules, attempt, 1) is again


def test_the_last_attempt_has_no_other() -> None:
    attempt = Attempt(b"GET", Outcome.CONNECT_FAILED)
    assert [wants_another(RetryRules(3), attempt, n) for n in (1, 2, 3)] == [True, True, False]
    assert not wants_another(RetryRules(1), attempt, 1)


def test_retries_are_a_share_of_the_attempts_of_the_last_seconds() -> None:
    budget = Budget(0.2)
    for _ in range(1000):
        budget.attempt(100.0)
    allowed = 0
    while budget.retry(100.5):
        allowed += 1
    assert allowed == 250  # a fifth of 1250
    assert not budget.retry(109.0)
    assert budget.retry(111.0)  # the window has moved


def test_few_retries_are_always_allowed() -> None:
    budget = Budget(0.1)
    assert [budget.retry(5.0) for _ in range(FREE_RETRIES + 1)] == [True] * FREE_RETRIES + [False]


def test_a_budget_of_nothing_allows_nothing() -> None:
    budget = Budget(0.0)
    budget.attempt(1.0)
    assert not budget.retry(1.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=300))
def test_a_refused_retry_is_not_counted(steps: list[tuple[float, bool]]) -> None:
    budget, now_s, taken = Budget(0.5), 0.0, []
    for later_s, is_retry in steps:
        now_s += later_s
        if not is_retry:
            budget.attempt(now_s)
        elif budget.retry(now_s):
            taken.append(now_s)
        recent = [each for each in taken if each // 1 > now_s // 1 - 10]
        assert len(recent) <= max(FREE_RETRIES, len(steps))
