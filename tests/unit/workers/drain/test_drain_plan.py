"""A drain sends both GOAWAYs, then closes idle connections; only the deadline cuts a running request."""

from __future__ import annotations

from workers.drain.drain_plan import LINGER_S, Act, Drain


def play(drain: Drain, script: dict[float, list[tuple[int, int, bool]]]) -> dict[float, list[tuple[Act, int]]]:
    """Return the acts at each time."""
    return {now_s: acts for now_s, connections in script.items() if (acts := drain.step(now_s, connections))}


def idle(*connections: int) -> list[tuple[int, int, bool]]:
    return [(connection, 0, True) for connection in connections]


def test_goaways_are_spread_and_idle_connections_closed_after_both() -> None:
    drain = Drain(100.0, 130.0, spread_s=4.0)
    acts = play(drain, {100.0 + step / 2: idle(1, 2) for step in range(20)})
    assert acts == {
        100.0: [(Act.WARN, 1)],
        101.0: [(Act.TELL, 1)],
        102.0: [(Act.WARN, 2)],
        103.0: [(Act.TELL, 2)],
        106.0: [(Act.CLOSE, 1)],
        108.0: [(Act.CLOSE, 2)],
    }
    assert not drain.over
    assert drain.step(110.0, []) == []
    assert drain.over
    assert drain.lost == 0


def test_a_running_request_is_cut_only_at_the_deadline() -> None:
    drain = Drain(0.0, 10.0, spread_s=0.0)
    busy = [(1, 2, True), (2, 0, False)]
    acts = play(drain, {float(second): busy for second in range(10)})
    assert [act for each in acts.values() for act, _ in each] == [Act.WARN, Act.TELL]
    assert drain.step(10.0, busy) == [(Act.CLOSE, 1), (Act.CLOSE, 2)]
    assert drain.step(10.1, busy) == []  # closing takes a while; requested once
    assert (drain.lost, drain.cut) == (2, 2), "two requests on the first connection, none on the other"


def test_a_connection_is_closed_some_time_after_its_last_request() -> None:
    drain = Drain(0.0, 60.0, spread_s=0.0)
    play(drain, {0.0: [(1, 1, True)], 1.0: [(1, 1, True)], 20.0: [(1, 1, True)]})
    assert play(drain, {20.1: idle(1), 25.0: idle(1), 25.1: idle(1)}) == {25.1: [(Act.CLOSE, 1)]}


def test_a_handshake_in_flight_is_accepted_and_warned_when_complete() -> None:
    drain = Drain(0.0, 10.0, spread_s=5.0)
    assert drain.accepts(0.0)
    assert drain.step(0.0, []) == []
    assert not drain.over  # a datagram may wait in the socket
    assert drain.step(0.5, [(7, 0, False)]) == []
    assert drain.step(0.6, idle(7)) == [(Act.WARN, 7)]
    assert not drain.accepts(LINGER_S)
    drain.step(LINGER_S, [])
    assert drain.over


def test_both_goaways_are_sent_before_the_deadline() -> None:
    drain = Drain(0.0, 3.0, spread_s=60.0)
    acts = play(drain, {step / 10: idle(1, 2, 3, 4) for step in range(30)})
    told = [connection for each in acts.values() for act, connection in each if act is Act.TELL]
    assert told == [1, 2, 3, 4]


def test_an_immediate_drain_closes_at_once() -> None:
    drain = Drain(0.0, 0.0, spread_s=0.0)
    assert not drain.accepts(0.0)
    assert drain.step(0.0, [(1, 1, True), (2, 0, True)]) == [(Act.CLOSE, 1), (Act.CLOSE, 2)]
    assert drain.lost == 1


def test_no_second_final_goaway_after_a_resume() -> None:
    told: set[int] = set()
    play(Drain(0.0, 60.0, 0.0, told=told), {0.0: idle(1), 1.0: idle(1)})
    assert told == {1}
    again = Drain(10.0, 70.0, 0.0, told=told)
    acts = play(again, {10.0: idle(1, 2), 11.0: idle(1, 2), 15.0: idle(1, 2), 16.0: idle(1, 2)})
    assert acts == {10.0: [(Act.WARN, 2)], 11.0: [(Act.TELL, 2)], 15.0: [(Act.CLOSE, 1)], 16.0: [(Act.CLOSE, 2)]}
    again.step(17.0, [])
    assert told == set()


def test_a_second_order_moves_the_deadline_without_a_second_goaway() -> None:
    drain = Drain(0.0, 60.0, 0.0)
    play(drain, {0.0: [(1, 3, True)], 1.0: [(1, 3, True)]})
    drain.renew(2.0, 5.0, 0.0, discourage=False)
    assert play(drain, {2.0: [(1, 3, True)], 5.0: [(1, 3, True)]}) == {5.0: [(Act.CLOSE, 1)]}
    assert (drain.lost, drain.cut) == (3, 1)


def test_late_arrivals_get_goaway_when_discourage_becomes_drain() -> None:
    drain = Drain(0.0, 60.0, 0.0, discourage=True)
    play(drain, {0.0: idle(1), 1.0: idle(1), 2.0: idle(1, 2, 3)})
    drain.renew(10.0, 70.0, 4.0, discourage=False)
    acts = play(drain, {10.0: idle(1, 2, 3), 11.5: idle(1, 2, 3), 14.0: idle(2, 3)})
    assert drain.accepts(10.5)
    assert not drain.accepts(11.5)
    assert acts == {10.0: [(Act.CLOSE, 1)], 11.5: [(Act.WARN, 2)], 14.0: [(Act.TELL, 2), (Act.WARN, 3)]}


def test_discourage_sends_goaways_to_present_connections_and_closes_none() -> None:
    drain = Drain(0.0, 2.0, spread_s=0.0, discourage=True)
    acts = play(drain, {0.0: idle(1), 1.0: idle(1, 2), 2.0: idle(1, 2), 5.0: idle(1, 2), 9.0: []})
    assert acts == {0.0: [(Act.WARN, 1)], 1.0: [(Act.TELL, 1)]}
    assert drain.accepts(100.0)
    assert not drain.over
