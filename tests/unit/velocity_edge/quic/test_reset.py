"""Budget, calendar, reset packets, trains: each keeps the one promise that others build on."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.portable.batch import gather
from velocity_edge.quic.portable.calendar import Calendar
from velocity_edge.quic.reset import build_reset, reset_length, reset_token

SECOND = 1_000_000_000


@given(st.lists(st.integers(0, 3 * SECOND), max_size=60), st.integers(1, 10))
def test_no_second_that_begins_with_a_window_has_more_than_the_limit(times: list[int], limit: int) -> None:
    budget = PerSecond(limit)
    taken = [now for now in sorted(times) if budget.take(now)]
    for begin in taken:
        # Two windows may meet in one second, never three.
        assert sum(begin <= now < begin + SECOND for now in taken) <= 2 * limit


def test_a_quiet_second_gives_the_whole_budget_back() -> None:
    budget = PerSecond(2)
    assert [budget.take(0), budget.take(1), budget.take(2)] == [True, True, False]
    assert budget.take(SECOND)


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 50_000_000))), max_size=80))
def test_the_calendar_wakes_everyone_once_in_order_and_never_early(moves: list[tuple[int, int | None]]) -> None:
    calendar: Calendar[int] = Calendar()
    model: dict[int, int] = {}
    for item, deadline_ns in moves:
        if deadline_ns is None:
            calendar.discard(item)
            model.pop(item, None)
        else:
            calendar.set(item, deadline_ns)
            model[item] = deadline_ns
    woken: list[tuple[int, int]] = []
    while (now_ns := calendar.next_ns()) is not None:
        due = calendar.due(now_ns)
        assert due
        woken += [(now_ns, item) for item in due]
    assert sorted(item for _, item in woken) == sorted(model)
    for now_ns, item in woken:
        assert model[item] <= now_ns < model[item] + 1_000_000


def test_a_calendar_of_one_who_moves_all_the_time_stays_small() -> None:
    calendar: Calendar[str] = Calendar()
    for now in range(0, 100_000):
        calendar.set("busy", now * 1000 + 30 * SECOND)
        calendar.set("busy", now * 1000 + 1_000_000)
    assert len(calendar._order) < 300
    assert calendar.next_ns() is not None


def test_a_reset_token_is_the_documented_mac() -> None:
    cid = bytes([3 << 5 | 19]) + bytes(range(19))
    assert reset_token({3: b"key"}, cid) == hmac.new(b"key", cid, hashlib.sha256).digest()[:16]
    assert reset_token({2: b"key"}, cid) is None


@given(st.integers(0, 2000))
def test_a_reset_is_always_shorter_than_its_cause(trigger: int) -> None:
    length = reset_length(trigger)
    if length is None:
        assert trigger < 42
        return
    reset = build_reset(bytes(16), length, lambda n: bytes([0xFF]) * n)
    assert len(reset) == length < trigger
    assert reset[0] & 0xC0 == 0x40


paths = st.sampled_from([("p1", "l", 0), ("p2", "l", 0)])


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=4).map(lambda b: b * 300), paths), max_size=150))
def test_trains_are_the_same_datagrams_in_the_same_order(datagrams: list[tuple[bytes, tuple[str, str, int]]]) -> None:
    seen: list[tuple[bytes, object]] = []
    for train in gather(datagrams):
        assert len(train.data) <= 65_000
        cuts = [train.data[i : i + train.segment_size] for i in range(0, len(train.data), train.segment_size)]
        assert len(cuts) <= 64
        seen += [(cut, (train.peer, train.local, train.listener)) for cut in cuts]
    assert seen == datagrams
