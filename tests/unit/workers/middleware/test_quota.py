"""A window never admits more than its limit, wherever it begins, and gives places back when it says so."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from velocity_edge.wire.rate_entry import EMPTY, MAX_WEIGHT, State
from workers.middleware.quota import MAX_LIMIT, SLICES, Quota, Verdict

SECOND_US = 1_000_000


class Client:
    """One key's entry, kept as RateCells keeps it."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.state: State = EMPTY
        self.until_ms = 0

    def ask(self, now_us: int) -> Verdict:
        state = self.state if self.until_ms > now_us // 1000 else EMPTY
        verdict, changed = self.quota.ask(state, now_us)
        if changed is not None:
            self.until_ms, weight, self.state = changed
            assert 0 < weight <= MAX_WEIGHT
            assert self.until_ms < 1 << 40
            assert all(0 <= word < 1 << 64 for word in self.state)
        return verdict


steps_us = st.lists(st.integers(0, 400_000), min_size=1, max_size=120)


@settings(deadline=None)
@given(limit=st.integers(1, 12), window_ms=st.integers(1, 3000), steps=steps_us)
def test_no_window_has_more_than_the_limit_and_places_come_back(limit: int, window_ms: int, steps: list[int]) -> None:
    client = Client(Quota(limit, window_ms))
    now_us, admitted = 10**9 + 123, []
    late_us = (window_ms / SLICES + 3) * 1000
    for step in steps:
        now_us += step
        verdict = client.ask(now_us)
        recent = [time for time in admitted if time > now_us - window_ms * 1000]
        if verdict.admitted:
            assert len(recent) < limit
            assert verdict.remaining <= limit - len(recent) - 1
            admitted.append(now_us)
        else:
            assert sum(time > now_us - window_ms * 1000 - late_us for time in admitted) >= limit, "refused too long"
        assert 0 < verdict.more_after_s <= (window_ms + 2) / 1000 + window_ms / SLICES / 1000


@settings(deadline=None)
@given(limit=st.integers(1, 12), window_ms=st.integers(1, 3000), burst=st.integers(1, 8), steps=steps_us)
def test_a_bucket_admits_its_depth_and_then_its_rate(limit: int, window_ms: int, burst: int, steps: list[int]) -> None:
    client = Client(Quota(limit, window_ms, burst))
    rate = limit / (window_ms * 1000)
    now_us, level, before_us = 10**9, float(burst), 10**9
    for step in steps:
        now_us += step
        level = min(float(burst), level + (now_us - before_us) * rate)
        before_us = now_us
        verdict = client.ask(now_us)
        if verdict.admitted:
            level -= 1
            assert level > -0.001
        else:
            assert level < 1.01 + len(steps) * rate, "refused although a request was left"
            assert verdict.more_after_s > 0


def test_after_what_the_verdict_says_one_more_is_admitted() -> None:
    for quota in (Quota(3, 1300), Quota(3, 1300, 2)):
        client = Client(quota)
        now_us = 10**9
        while client.ask(now_us).admitted:
            now_us += 50_000
        refused = client.ask(now_us)
        assert not client.ask(now_us + int(refused.more_after_s * 1e6) - 2_000).admitted
        assert client.ask(now_us + int(refused.more_after_s * 1e6) + 1).admitted


def test_a_burst_at_once_is_free_again_exactly_a_window_later() -> None:
    client = Client(Quota(5, 1000))
    answers = [client.ask(10**9 + n) for n in range(7)]
    assert [verdict.admitted for verdict in answers] == [True] * 5 + [False] * 2
    assert [verdict.remaining for verdict in answers] == [4, 3, 2, 1, 0, 0, 0]
    assert not client.ask(10**9 + 990_000).admitted
    assert [client.ask(10**9 + SECOND_US + 2_000 + n).admitted for n in range(6)] == [True] * 5 + [False]


def test_refused_requests_do_not_count() -> None:
    client = Client(Quota(1, 1000))
    assert client.ask(10**9).admitted
    for n in range(1, 10):
        assert not client.ask(10**9 + n * 100_000).admitted
    assert client.ask(10**9 + 1_001_000).admitted


def test_words_that_this_program_did_not_write_block_nobody() -> None:
    for quota in (Quota(1, 1000), Quota(1, 1000, 1)):
        verdict, changed = quota.ask([(1 << 64) - 1] * len(EMPTY), 10**9)
        assert verdict.admitted
        assert changed is not None


def test_the_largest_limit_fits() -> None:
    client = Client(Quota(MAX_LIMIT, 86_400_000))
    assert client.ask(2**40 * 900).remaining == MAX_LIMIT - 1
