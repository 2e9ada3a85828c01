"""Every event in every state either is in the table or is a bug that says so, and the drawings in the docs are true."""

import itertools
from pathlib import Path

import pytest

from supervisor.node import lifecycle as lc
from supervisor.node.drain_contract import CONTRACT_TABLE, Event, Phase
from supervisor.node.rollout import ROLLOUT_TABLE, RolloutEvent, RolloutState

DOCS = Path(__file__).parents[4] / "docs/architecture.md"


@pytest.mark.parametrize(("state", "event"), list(itertools.product(lc.WorkerState, lc.WorkerEvent)))
def test_worker(state: lc.WorkerState, event: lc.WorkerEvent) -> None:
    if (state, event) in lc.WORKER_TABLE:
        assert lc.next_worker_state(state, event) is lc.WORKER_TABLE[state, event]
    else:
        with pytest.raises(lc.IllegalTransition, match=f"{event} while {state}"):
            lc.next_worker_state(state, event)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(lc.NodeState, lc.NodeEvent)))
def test_node(state: lc.NodeState, event: lc.NodeEvent) -> None:
    if (state, event) in lc.NODE_TABLE:
        assert lc.next_node_state(state, event) is lc.NODE_TABLE[state, event]
    else:
        with pytest.raises(lc.IllegalTransition):
            lc.next_node_state(state, event)


def test_death_is_possible_in_every_state_and_final() -> None:
    for state in lc.WorkerState:
        expected = state is not lc.WorkerState.GONE
        assert ((state, lc.WorkerEvent.EXITED) in lc.WORKER_TABLE) is expected
    assert not any(state is lc.WorkerState.GONE for state, _ in lc.WORKER_TABLE)


@pytest.mark.parametrize(
    ("table", "first", "states"),
    [
        (lc.WORKER_TABLE, lc.WorkerState.STARTING, lc.WorkerState),
        (lc.NODE_TABLE, lc.NodeState.STARTING, lc.NodeState),
        (ROLLOUT_TABLE, RolloutState.BRINGING_UP, RolloutState),
        (CONTRACT_TABLE, Phase.ROUTES, Phase),
    ],
)
def test_every_state_can_be_reached(table: dict, first: str, states: type) -> None:
    reached, before = {first}, set()
    while reached != before:
        before = set(reached)
        reached |= {after for (state, _), after in table.items() if state in reached}
    assert reached == set(states)


def test_the_drawings_are_current() -> None:
    text = DOCS.read_text()
    assert lc.render(lc.WORKER_TABLE) in text
    assert lc.render(lc.NODE_TABLE) in text
    assert lc.render(ROLLOUT_TABLE, RolloutState.BRINGING_UP) in text
    assert lc.render(CONTRACT_TABLE, Phase.ROUTES) in text


def test_every_rollout_event_means_something() -> None:
    assert {event for _, event in ROLLOUT_TABLE} == set(RolloutEvent)
    assert {event for _, event in CONTRACT_TABLE} == set(Event)
