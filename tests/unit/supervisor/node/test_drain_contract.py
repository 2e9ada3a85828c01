"""A drain continues when a step is proven or its time is over, and its verdict counts what was lost."""

import pytest

from supervisor.node.drain_contract import CUT_GRACE_S, Contract, Event, Phase, Terms, verdict
from supervisor.node.table import IllegalEvent


def told(**terms: float) -> Contract:
    contract = Contract(Terms(**terms), 100.0, phase_since_s=100.0)  # type: ignore[arg-type]
    contract.happen(Event.WRITTEN, 100.0)
    contract.settle("not awaited", 110.0)
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
    with pytest.raises(IllegalEvent, match="cannot empty while resumed"):
        contract.happen(Event.EMPTY, 140.0)


def test_a_hard_stop_that_cut_idle_connections_only_lost_nothing() -> None:
    contract = told(max_wait_s=60.0)
    contract.tick(160.0)
    contract.cut = 2
    contract.tick(160.0 + CUT_GRACE_S)
    text, code = verdict(contract)
    assert code == 0
    assert text.startswith("VERDICT: drained, lost=0; the hard stop")


def test_without_a_measurement_arrivals_end_by_the_clock_and_the_proof_says_so() -> None:
    for rate, shown in ((None, "unknown"), (0.25, "0.2/s")):
        contract = Contract(Terms(announce_max_s=60.0), 100.0)
        contract.happen(Event.WRITTEN, 100.0)
        contract.tick(159.0, rate)
        assert contract.phase is Phase.ARRIVALS
        contract.tick(160.0, rate)
        assert contract.phase is Phase.QUIESCE
        assert contract.proof == f"by the clock after 60 s, new={shown}: not measured to be over"
