"""The life of a worker and the life of the node, as tables.

Rule 1: every change of a state goes through `next_worker_state` or `next_node_state`.
Rule 2: no I/O, no clock. The diagrams in docs/architecture.md are printed by `render()`; a test compares them.

Why something happens is decided in node.py. Two things surprise: a worker may exit in any state, and only a worker that
leaves for good goes from draining to stopping (a quiesced node's workers drain and stay, so that `resume` is instant).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from typing import Final, TypeVar


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STARTING = auto()
    READY = auto()
    DRAINING = auto()
    STOPPING = auto()
    KILLED = auto()
    GONE = auto()


class WorkerEvent(StrEnum):
    """What can happen to a worker. `condemn`: overdue, stuck, refused or broken; it gets a SIGKILL."""

    READY = auto()
    DRAIN = auto()
    RESUME = auto()
    STOP = auto()
    CONDEMN = auto()
    EXITED = auto()


class NodeState(StrEnum):
    """Where the node is in its life."""

    STARTING = auto()
    SERVING = auto()
    QUIESCING = auto()
    QUIESCED = auto()
    STOPPING = auto()
    STOPPED = auto()


class NodeEvent(StrEnum):
    """What can happen to the node. `empty`: every worker has drained."""

    ALL_READY = auto()
    START_FAILED = auto()
    QUIESCE = auto()
    EMPTY = auto()
    RESUME = auto()
    STOP = auto()
    ALL_GONE = auto()


_W, _E = WorkerState, WorkerEvent
WORKER_TABLE: Final[Mapping[tuple[WorkerState, WorkerEvent], WorkerState]] = {
    (_W.STARTING, _E.READY): _W.READY,
    (_W.STARTING, _E.STOP): _W.STOPPING,
    (_W.STARTING, _E.CONDEMN): _W.KILLED,
    (_W.READY, _E.DRAIN): _W.DRAINING,
    (_W.READY, _E.STOP): _W.STOPPING,
    (_W.READY, _E.CONDEMN): _W.KILLED,
    (_W.DRAINING, _E.RESUME): _W.READY,
    (_W.DRAINING, _E.STOP): _W.STOPPING,
    (_W.DRAINING, _E.CONDEMN): _W.KILLED,
    (_W.STOPPING, _E.CONDEMN): _W.KILLED,
    # Death may come at any time, and always leads to the same place.
    **{(state, _E.EXITED): _W.GONE for state in _W if state is not _W.GONE},
}

_N, _V = NodeState, NodeEvent
NODE_TABLE: Final[Mapping[tuple[NodeState, NodeEvent], NodeState]] = {
    (_N.STARTING, _V.ALL_READY): _N.SERVING,
    (_N.STARTING, _V.START_FAILED): _N.STOPPING,
    (_N.STARTING, _V.STOP): _N.STOPPING,
    (_N.SERVING, _V.QUIESCE): _N.QUIESCING,
    (_N.SERVING, _V.STOP): _N.STOPPING,
    # A second quiesce may change the mode: discourage first, graceful later.
    (_N.QUIESCING, _V.QUIESCE): _N.QUIESCING,
    (_N.QUIESCING, _V.EMPTY): _N.QUIESCED,
    (_N.QUIESCING, _V.RESUME): _N.SERVING,
    (_N.QUIESCING, _V.STOP): _N.STOPPING,
    (_N.QUIESCED, _V.RESUME): _N.SERVING,
    (_N.QUIESCED, _V.STOP): _N.STOPPING,
    # A second stop is a fast one.
    (_N.STOPPING, _V.STOP): _N.STOPPING,
    (_N.STOPPING, _V.ALL_GONE): _N.STOPPED,
}


class IllegalTransition(Exception):
    """An event that cannot happen in this state: a bug of ours, not of the worker."""


def next_worker_state(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """Return where *event* takes a worker that is in *state*."""
    return _look_up(WORKER_TABLE, state, event)


def next_node_state(state: NodeState, event: NodeEvent) -> NodeState:
    """Return where *event* takes a node that is in *state*."""
    return _look_up(NODE_TABLE, state, event)


S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


def _look_up(table: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    try:
        return table[state, event]
    except KeyError:
        raise IllegalTransition(f"{event} while {state}") from None


def render(table: Mapping[tuple[S, E], S], first: str = "starting") -> str:
    """Return a table as a Mermaid state diagram that begins in *first*."""
    lines = [f"    {before} --> {after}: {event}" for (before, event), after in table.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {first}", *lines])
