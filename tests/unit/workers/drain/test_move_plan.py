"""A move renames each connection once, in its turn, or drains it; no request is cut."""

from __future__ import annotations

from workers.drain.drain_plan import Act
from workers.drain.move_plan import Ask, Move


def idle(*connections: int) -> list[tuple[int, int, bool]]:
    return [(connection, 0, True) for connection in connections]


def test_turns_are_spread() -> None:
    move = Move(100.0, 4.0)
    acts = {100.0 + step / 2: move.step(100.0 + step / 2, idle(1, 2, 3, 4)) for step in range(10)}
    assert {at_s: found for at_s, found in acts.items() if found} == {
        100.0 + turn: [(Ask.RENAME, turn + 1)] for turn in range(4)
    }


def test_a_connection_that_cannot_be_renamed_is_drained() -> None:
    move = Move(0.0, 0.0)
    assert move.step(0.0, idle(1)) == [(Ask.RENAME, 1)]
    move.cannot_rename(1)
    acts = [(step / 2, act) for step in range(1, 20) for act, _ in move.step(step / 2, idle(1))]
    assert acts == [(0.5, Act.WARN), (1.5, Act.TELL), (6.5, Act.CLOSE)]


def test_a_running_request_is_never_cut() -> None:
    move = Move(0.0, 0.0)
    move.step(0.0, [(1, 1, True)])
    move.cannot_rename(1)
    acts = [act for second in range(1, 100_000, 10) for act, _ in move.step(float(second), [(1, 1, True)])]
    assert acts == [Act.WARN, Act.TELL]


def test_a_client_that_keeps_its_ids_is_drained_after_a_while() -> None:
    move = Move(0.0, 0.0)
    move.step(0.0, idle(1))
    assert move.step(39.5, idle(1)) == []
    assert move.step(40.0, idle(1)) == [(Act.WARN, 1)]


def test_a_moved_connection_is_ignored_and_a_new_one_gets_its_turn() -> None:
    move = Move(0.0, 2.0)
    assert move.step(0.0, idle(1, 2)) == [(Ask.RENAME, 1)]
    assert move.step(1.0, idle(2)) == [(Ask.RENAME, 2)]
    assert move.step(50.0, idle(3)) == [(Ask.RENAME, 3)]


def test_a_connection_is_renamed_after_its_handshake() -> None:
    move = Move(0.0, 0.0)
    assert move.step(0.0, [(1, 0, False)]) == []
    assert move.step(0.5, idle(1)) == [(Ask.RENAME, 1)]
