"""A drain goes on when a step is proven, says when it was only the clock, and its verdict counts what was lost."""

from supervisor.node.drain_contract import CUT_GRACE_S, Contract, Event, Phase, Terms, Trend, verdict


def arriving(**terms: float) -> Contract:
    contract = Contract(Terms(**terms), 100.0, phase_since_s=100.0)  # type: ignore[arg-type]
    contract.happen(Event.WRITTEN, 100.0)
    return contract


def feed(contract: Contract, per_s: list[float], *, start_s: float = 100.0) -> float:
    """Count once per second; return when the phase ended, or the last time."""
    total = 1000.0
    for second, rate in enumerate(per_s):
        contract.count(start_s + second, int(total), accepts=True)
        contract.tick(start_s + second)
        if contract.phase is not Phase.ARRIVALS:
            return start_s + second
        total += rate
    return start_s + len(per_s) - 1


def test_arrivals_are_over_when_few_came_for_long_enough() -> None:
    contract = arriving(settle_s=10.0)
    ended_s = feed(contract, [20.0] * 8 + [0.0] * 60)
    assert contract.phase is Phase.QUIESCE
    assert contract.proof == "measured: new<1/s for 10 s"
    # The last one arrived at 107; a window of 5 s without it ends at 113, and began at 108.
    assert ended_s == 118.0


def test_one_burst_and_the_wait_begins_anew() -> None:
    contract = arriving(settle_s=10.0, announce_max_s=1000.0)
    ended_s = feed(contract, [0.0] * 9 + [50.0] + [0.0] * 60)
    assert ended_s == 120.0


def test_few_enough_is_a_rate_and_not_none() -> None:
    trickle = ([1.0] + [0.0] * 2) * 40
    assert feed(arriving(settle_s=10.0), trickle) < 125.0
    strict = arriving(settle_s=10.0, settle_below_per_s=0.1, announce_max_s=60.0)
    feed(strict, trickle)
    assert strict.proof == "by the clock after 60 s, new=0.2/s: not measured to be over"


def test_counters_that_begin_anew_are_not_a_negative_rate() -> None:
    contract = arriving(settle_s=3.0)
    for second, total in enumerate([500, 530, 560, 10, 40, 70, 100]):
        contract.count(100.0 + second, total, accepts=True)
        assert contract.new_per_s is None or contract.new_per_s >= 0
    assert contract.phase is Phase.ARRIVALS


def test_nothing_is_measured_where_nobody_is_let_in_or_nobody_wants_to_wait() -> None:
    contract = arriving()
    contract.count(101.0, 5, accepts=False)
    assert (contract.phase, contract.proof) == (Phase.QUIESCE, "nobody is let in already")
    contract = arriving(settle_s=0.0)
    contract.count(101.0, 5, accepts=True)
    assert contract.phase is Phase.QUIESCE


def told(**terms: float) -> Contract:
    contract = arriving(**terms)
    contract.hurry(110.0)
    contract.happen(Event.TOLD, 120.0)
    assert contract.phase is Phase.LIVE
    return contract


def test_verdicts() -> None:
    contract = told()
    contract.happen(Event.EMPTY, 130.0)
    assert verdict(contract) == ("VERDICT: drained, lost=0", 0)

    contract = told()
    contract.lost = 2
    contract.happen(Event.EMPTY, 130.0)
    assert verdict(contract)[1] == 1

    contract = told(max_wait_s=60.0)
    assert contract.due_s == 160.0
    contract.tick(159.9)
    assert contract.phase is Phase.LIVE
    contract.tick(160.0)
    assert contract.phase is Phase.CUTTING
    contract.lost, contract.cut = 3, 1
    contract.happen(Event.EMPTY, 161.0)
    assert verdict(contract) == ("VERDICT: stopped hard after 61 s, lost=3: requests on 1 connection were cut off", 4)

    contract = told()
    contract.happen(Event.RESUME, 130.0)
    assert verdict(contract) == ("VERDICT: resumed after 30 s, lost=0", 5)
    contract.happen(Event.EMPTY, 140.0)
    assert contract.phase is Phase.RESUMED, "an end is an end"


def test_a_hard_stop_that_cut_idle_connections_only_lost_nothing() -> None:
    contract = told(max_wait_s=60.0)
    contract.tick(160.0)
    contract.cut = 2
    contract.tick(160.0 + CUT_GRACE_S)
    text, code = verdict(contract)
    assert code == 0
    assert text.startswith("VERDICT: drained, lost=0; the hard stop")


def test_decay_and_when_it_will_be_over() -> None:
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
    assert trend.eta_s() is None, "what does not fall never ends"
