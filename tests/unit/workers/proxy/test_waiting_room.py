"""Invariant: who came first is next, nobody waits longer than allowed, and there are never more than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.proxy.waiting_room import WaitingRoom


def test_first_come_first_served_and_no_more_than_fit() -> None:
    room: WaitingRoom[int] = WaitingRoom(2, 5.0)
    assert (room.enter(1, 0.0), room.enter(2, 1.0), room.enter(3, 1.0)) == (True, True, False)
    assert len(room) == 2
    assert (room.next(), room.next(), room.next()) == (1, 2, None)
    assert room.next_due_s is None


def test_who_has_waited_too_long_is_taken_out() -> None:
    room: WaitingRoom[int] = WaitingRoom(9, 5.0)
    room.enter(1, 0.0)
    room.enter(2, 3.0)
    assert room.next_due_s == 5.0
    assert room.overdue(4.9) == []
    assert room.overdue(5.0) == [1]
    assert room.next_due_s == 8.0
    assert room.overdue(99.0) == [2]


def test_who_leaves_is_not_called() -> None:
    room: WaitingRoom[int] = WaitingRoom(9, 5.0)
    room.enter(1, 0.0)
    room.enter(2, 0.0)
    room.leave(1)
    room.leave(7)
    assert room.next() == 2


def test_a_room_for_nobody_takes_nobody() -> None:
    assert not WaitingRoom[int](0, 5.0).enter(1, 0.0)


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "next", "overdue"]), st.integers(0, 9)), max_size=80))
def test_everybody_leaves_once(steps: list[tuple[str, int]]) -> None:
    room: WaitingRoom[int] = WaitingRoom(4, 3.0)
    inside: list[int] = []
    for now, (what, who) in enumerate(steps):
        if what == "enter" and who not in inside:
            assert room.enter(who, now) is (len(inside) < 4)
            inside = [*inside, who][:4]
        elif what == "leave":
            room.leave(who)
            inside = [each for each in inside if each != who]
        elif what == "next":
            assert room.next() == (inside.pop(0) if inside else None)
        elif what == "overdue":
            for each in room.overdue(now):
                assert each == inside.pop(0)
        assert len(room) == len(inside) <= 4
