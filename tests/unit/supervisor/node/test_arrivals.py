"""Arrivals are over when the measured rate stays below the limit for the settle time."""

from supervisor.node.arrivals import Arrivals, Trend
from supervisor.node.drain_contract import Terms


def feed(arrivals: Arrivals, terms: Terms, per_s: list[float]) -> tuple[str, float]:
    """Count once per second; return the proof and when it came, or an empty one and the last time."""
    total = 1000.0
    for second, rate in enumerate(per_s):
        if proof := arrivals.proof(terms, float(second), int(total), accepts=True):
            return proof, float(second)
        total += rate
    return "", len(per_s) - 1.0


def test_arrivals_are_over_when_the_rate_stays_below_the_limit_for_the_settle_time() -> None:
    # The last one arrived at 7; a window of 5 s without it ends at 13, and began at 8.
    assert feed(Arrivals(), Terms(settle_s=10.0), [20.0] * 8 + [0.0] * 60) == ("measured: new<1/s for 10 s", 18.0)


def test_a_burst_restarts_the_settle_time() -> None:
    assert feed(Arrivals(), Terms(settle_s=10.0), [0.0] * 9 + [50.0] + [0.0] * 60)[1] == 20.0


def test_the_limit_is_a_rate() -> None:
    trickle = ([1.0] + [0.0] * 2) * 40
    assert feed(Arrivals(), Terms(settle_s=10.0), trickle)[1] < 25.0
    arrivals = Arrivals()
    assert feed(arrivals, Terms(settle_s=10.0, settle_below_per_s=0.1), trickle)[0] == ""
    assert arrivals.new_per_s is not None
    assert round(arrivals.new_per_s, 1) in (0.2, 0.4)


def test_counters_that_begin_anew_are_not_a_negative_rate() -> None:
    arrivals = Arrivals()
    for second, total in enumerate([500, 530, 560, 10, 40, 70, 100]):
        assert arrivals.proof(Terms(settle_s=3.0), float(second), total, accepts=True) == ""
        assert arrivals.new_per_s is None or arrivals.new_per_s >= 0


def test_nothing_is_measured_when_the_node_accepts_no_connections_or_the_settle_time_is_0() -> None:
    assert Arrivals().proof(Terms(), 101.0, 5, accepts=False) == "the node accepts no new connections"
    assert Arrivals().proof(Terms(settle_s=0.0), 101.0, 5, accepts=True) == "not awaited: settle_s is 0"
    assert Arrivals().proof(Terms(), 101.0, 5, accepts=True) == ""


def test_decay_and_time_until_it_ends() -> None:
    trend = Trend()
    assert trend.eta_s() is None
    for second in range(40):
        trend.add(float(second), 1000.0 if second < 20 else 1000.0 - 10.0 * (second - 20))
    assert trend.falls_per_s() == 10.0
    assert trend.eta_s() == 81.0
    assert trend.eta_s(500.0) == 31.0
    for second in range(40, 60):
        trend.add(float(second), 810.0)
    assert trend.falls_per_s() == 0.0
    assert trend.eta_s() is None, "a number that does not fall never reaches 0"
