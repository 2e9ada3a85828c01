"""All state machines follow one rule: an event is in the table, or it raises an error that names it and the state."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from supervisor.node.drain_contract import CONTRACT_TABLE, Contract, Event, Phase, Terms
from supervisor.node.lifecycle import NODE_TABLE, WORKER_TABLE, NodeEvent, NodeState, WorkerEvent, WorkerState
from supervisor.node.node import Node
from supervisor.node.rollout import ROLLOUT_TABLE, Rollout, RolloutEvent, RolloutState
from supervisor.node.state import Settings
from supervisor.node.table import IllegalEvent
from supervisor.node.worker import Worker

DOCS = Path(__file__).parents[4] / "docs/architecture.md"


def worker_goes(state: Any, event: Any) -> object:
    worker = Worker(1, 0, 0, 0.0, None)
    worker.state = state
    worker.advance(event)
    return worker.state


def node_goes(state: Any, event: Any) -> object:
    node = Node(Settings(1), target=1)
    node.state = state
    node.advance(event)
    return node.state


def rollout_goes(state: Any, event: Any) -> object:
    rollout = Rollout([0], state=state)
    rollout._advance(event)
    return rollout.state


def drain_goes(state: Any, event: Any) -> object:
    contract = Contract(Terms(), 0.0, state)
    assert contract.can(event) is ((state, event) in CONTRACT_TABLE)
    contract.happen(event, 1.0)
    return contract.phase


MACHINES = [
    (WORKER_TABLE, WorkerState.STARTING, WorkerState, WorkerEvent, worker_goes),
    (NODE_TABLE, NodeState.STARTING, NodeState, NodeEvent, node_goes),
    (ROLLOUT_TABLE, RolloutState.BRINGING_UP, RolloutState, RolloutEvent, rollout_goes),
    (CONTRACT_TABLE, Phase.ROUTES, Phase, Event, drain_goes),
]


@pytest.mark.parametrize(
    ("machine", "state", "event"),
    [(machine, *pair) for machine in MACHINES for pair in itertools.product(machine[2], machine[3])],
    ids=lambda value: "" if isinstance(value, tuple) else str(value),
)
def test_an_event_that_the_table_lacks_is_an_error(machine: Any, state: Any, event: Any) -> None:
    table, _, _, _, goes = machine
    assert table.has(state, event) is ((state, event) in table)
    if table.has(state, event):
        assert goes(state, event) is table[state, event]
    else:
        with pytest.raises(IllegalEvent, match=f"^cannot {event} while {state}$"):
            goes(state, event)


@pytest.mark.parametrize(("table", "first", "states", "events", "_goes"), MACHINES)
def test_every_state_can_be_reached_and_every_event_happens(
    table: Any, first: Any, states: Any, events: Any, _goes: object
) -> None:
    reached, before = {first}, set()
    while reached != before:
        before = set(reached)
        reached |= {after for (state, _), after in table.items() if state in reached}
    assert reached == set(states)
    assert {event for _, event in table} == set(events)


@pytest.mark.parametrize(("table", "first", "states", "events", "_goes"), MACHINES)
def test_the_diagrams_in_the_documentation_are_current(
    table: Any, first: Any, states: Any, events: Any, _goes: object
) -> None:
    assert table.render(first) in DOCS.read_text()


def test_a_worker_may_exit_in_every_state_and_has_no_state_after_that() -> None:
    for state in WorkerState:
        assert WORKER_TABLE.has(state, WorkerEvent.EXITED) is (state is not WorkerState.GONE)
    assert not any(state is WorkerState.GONE for state, _ in WORKER_TABLE)
