"""A limit per second is never exceeded twice over, and is full again after a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.quic.budget import PerSecond

SECOND = 1_000_000_000


@given(st.lists(st.integers(0, 3 * SECOND), max_size=60), st.integers(1, 10))
def test_no_second_has_more_than_twice_the_limit(times: list[int], limit: int) -> None:
    budget = PerSecond(limit)
    taken = [now for now in sorted(times) if budget.take(now)]
    for begin in taken:
        # One second may overlap two windows, never three.
        assert sum(begin <= now < begin + SECOND for now in taken) <= 2 * limit


def test_the_budget_is_full_again_after_a_second() -> None:
    budget = PerSecond(2)
    assert [budget.take(0), budget.take(1), budget.take(2)] == [True, True, False]
    assert budget.take(SECOND)
