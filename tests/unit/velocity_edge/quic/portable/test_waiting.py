"""How long a connection waits for its peer: requests that do not complete, answers that are not taken."""

from __future__ import annotations

from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.waiting import Answers, Waiting

LIMITS = Limits(request_timeout_s=20.0, stall_timeout_s=300.0)
IDLE_S = 30.0
SECOND = 1_000_000_000


def test_the_oldest_stream_is_overdue_first() -> None:
    waiting = Waiting(LIMITS)
    waiting.begin(4, 1 * SECOND)
    waiting.begin(0, 2 * SECOND)
    waiting.begin(4, 9 * SECOND)  # it waits already
    assert waiting.deadlines_ns() == [21 * SECOND]
    assert waiting.overdue(21 * SECOND - 1) is None
    assert waiting.overdue(21 * SECOND) == 4
    waiting.end(4)
    assert waiting.overdue(21 * SECOND) is None
    assert waiting.overdue(22 * SECOND) == 0
    assert 0 in waiting
    assert 4 not in waiting


def test_a_peer_that_takes_nothing_gets_pings_and_then_is_stalled_once() -> None:
    waiting = Waiting(LIMITS)
    assert waiting.answers(IDLE_S, 0) is Answers.NOTHING
    assert waiting.deadlines_ns() == []
    waiting.note_taken(100, IDLE_S, 0)
    assert waiting.deadlines_ns() == [10 * SECOND, 300 * SECOND]
    assert waiting.answers(IDLE_S, 10 * SECOND - 1) is Answers.NOTHING
    assert waiting.answers(IDLE_S, 10 * SECOND) is Answers.PING
    assert waiting.answers(IDLE_S, 10 * SECOND) is Answers.NOTHING
    assert waiting.answers(IDLE_S, 300 * SECOND) is Answers.STALLED
    assert waiting.answers(IDLE_S, 301 * SECOND) is Answers.NOTHING


def test_a_peer_that_takes_something_is_waited_for_again() -> None:
    waiting = Waiting(LIMITS)
    waiting.note_taken(100, IDLE_S, 0)
    waiting.note_taken(101, IDLE_S, 200 * SECOND)
    assert waiting.answers(IDLE_S, 300 * SECOND) is Answers.PING
    assert waiting.answers(IDLE_S, 500 * SECOND) is Answers.STALLED


def test_a_peer_for_whom_nothing_waits_is_not_pinged() -> None:
    waiting = Waiting(LIMITS)
    waiting.note_taken(100, IDLE_S, 0)
    waiting.note_taken(None, IDLE_S, SECOND)
    assert waiting.answers(IDLE_S, 1000 * SECOND) is Answers.NOTHING
