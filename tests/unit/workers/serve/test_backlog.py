"""Waiting work is done one item of each connection in turn, in the connection's order, within a bound in bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.serve.backlog import SMALL_BYTES, Backlog


def drained(backlog: Backlog, done: list[int]) -> list[int]:
    while backlog:
        backlog.take()()
    return done


def test_connections_take_turns_and_each_keeps_its_order() -> None:
    backlog, done = Backlog(), list[int]()
    for connection, streams in ((1, (10, 11, 12)), (2, (20,)), (3, (30, 31))):
        for stream in streams:
            assert backlog.add(connection, stream, lambda stream=stream: done.append(stream))
    assert drained(backlog, done) == [10, 20, 30, 11, 31, 12]
    with pytest.raises(KeyError):
        backlog.take()


def test_a_closed_stream_is_removed_with_its_bytes() -> None:
    backlog, done = Backlog(100), list[int]()
    assert backlog.add(1, 10, lambda: done.append(10), 50)
    assert not backlog.add(1, 11, lambda: done.append(11), 51)
    backlog.drop(10)
    backlog.drop(99)
    assert backlog.add(1, 11, lambda: done.append(11), 100)
    assert drained(backlog, done) == [11]
    assert backlog.add(1, 12, lambda: None, 100)


def test_connections_with_much_waiting_leave_half_of_the_space_to_others() -> None:
    backlog = Backlog(64 * SMALL_BYTES)
    greedy = 0
    while backlog.add(greedy % 4, greedy, lambda: None, 1000):
        greedy += 1
    assert greedy * 1000 <= 32 * SMALL_BYTES
    for connection in range(100, 130):
        assert backlog.add(connection, 10_000 + connection, lambda: None, 1000)
    # Work that keeps no memory is always accepted: a stream has at most one item.
    assert backlog.add(0, 5, lambda: None)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 60), st.booleans()), max_size=200))
def test_bytes_are_bounded_and_nothing_is_lost(steps: list[tuple[int, int, int, bool]]) -> None:
    backlog, waiting, done = Backlog(100), dict[int, int](), list[int]()
    for connection, number, n_bytes, drops in steps:
        stream = connection * 10 + number
        if drops:
            backlog.drop(stream)
            waiting.pop(stream, None)
        elif stream not in waiting and backlog.add(connection, stream, lambda s=stream: done.append(s), n_bytes):
            waiting[stream] = n_bytes
        assert sum(waiting.values()) <= 100
        assert len(backlog) == len(waiting)
    assert sorted(drained(backlog, done)) == sorted(waiting)
    assert backlog.add(1, 1, lambda: None, 100)
