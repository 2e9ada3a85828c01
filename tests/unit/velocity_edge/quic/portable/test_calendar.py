"""Each item of the calendar is due once, in order, never early and at most a millisecond late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.quic.portable.calendar import Calendar

SECOND = 1_000_000_000


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 50_000_000))), max_size=80))
def test_items_are_due_once_in_order_and_never_early(moves: list[tuple[int, int | None]]) -> None:
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


def test_moves_of_one_item_do_not_grow_the_calendar() -> None:
    calendar: Calendar[str] = Calendar()
    for now in range(0, 100_000):
        calendar.set("busy", now * 1000 + 30 * SECOND)
        calendar.set("busy", now * 1000 + 1_000_000)
    assert len(calendar._order) < 300
    assert calendar.next_ns() is not None
