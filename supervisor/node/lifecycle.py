"""The states of a worker and of the node, and the events that change them: two tables (table.py). Pure.

When an event happens is decided by the other files of this folder. Two rows are easily missed: a worker may exit in any
state, and only a worker that leaves for good goes from draining to stopping (the workers of a quiesced node drain and
stay, so that `resume` takes effect at once).
"""

from __future__ import annotations

from enum import StrEnum, auto
from typing import Final

from supervisor.node.table import Table


class WorkerState(StrEnum):
    """The state of a worker."""

    STARTING = auto()
    READY = auto()
    DRAINING = auto()
    STOPPING = auto()
    KILLED = auto()
    GONE = auto()


class WorkerEvent(StrEnum):
    """An event of a worker. `condemn`: it is overdue, hangs, refused or broke the protocol, and gets a SIGKILL."""

    READY = auto()
    DRAIN = auto()
    RESUME = auto()
    STOP = auto()
    CONDEMN = auto()
    EXITED = auto()


class NodeState(StrEnum):
    """The state of the node."""

    STARTING = auto()
    SERVING = auto()
    QUIESCING = auto()
    QUIESCED = auto()
    STOPPING = auto()
    STOPPED = auto()


class NodeEvent(StrEnum):
    """An event of the node. `empty`: every worker has drained."""

    ALL_READY = auto()
    START_FAILED = auto()
    QUIESCE = auto()
    EMPTY = auto()
    RESUME = auto()
    STOP = auto()
    ALL_GONE = auto()


_W, _E = WorkerState, WorkerEvent
_PRESENT: Final[list[WorkerState]] = [state for state in WorkerState if state is not WorkerState.GONE]
WORKER_TABLE: Final[Table[WorkerState, WorkerEvent]] = Table(
    {
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
        # A process may end at any time.
        **{(state, _E.EXITED): _W.GONE for state in _PRESENT},
    }
)

_N, _V = NodeState, NodeEvent
NODE_TABLE: Final[Table[NodeState, NodeEvent]] = Table(
    {
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
)
