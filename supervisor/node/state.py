"""The state of a node: everything that the decisions of this folder read and change. Pure data.

One `State` per node. The functions that work on it are in the other files, each named after its subject: requests.py,
draining.py, reloading.py, key_change.py, rolling.py, staffing.py, reports.py, exits.py, deadlines.py. They append what
is to be done to `commands`; `Node.handle` (node.py) returns it. Here are only the questions and the small steps that
all of them need.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from supervisor.node.agreement import Agreement
from supervisor.node.arrivals import Arrivals, Trend
from supervisor.node.commands import Command, Say, Tell
from supervisor.node.core import Core
from supervisor.node.drain_contract import Contract, Phase
from supervisor.node.happenings import Departed, Quiesce, QuiesceMode
from supervisor.node.lifecycle import NODE_TABLE, NodeEvent, NodeState
from supervisor.node.rollout import Rollout
from supervisor.node.routes import Routes
from supervisor.node.worker import Worker, WorkerIds
from velocity_edge.wire import messages


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers and durations. Seconds."""

    #: Places for a current worker; there are twice as many slots.
    cores: int
    #: A loaded machine imports slowly; a worker that needs longer than this will not come.
    start_timeout_s: float = 30.0
    #: Heartbeats come every second. A garbage collection or a page cache stall is no reason to kill; 10 s is.
    heartbeat_timeout_s: float = 10.0
    #: To prepare a configuration, and to activate it.
    prepare_timeout_s: float = 10.0
    keys_timeout_s: float = 5.0
    #: A worker that leaves closes the remaining connections after this.
    drain_timeout_s: float = 30.0
    #: From GOAWAY to the first connection until GOAWAY to the last.
    drain_spread_s: float = 2.0
    #: What a worker gets on top of a deadline to carry out its order; also for its exit after its channel ended.
    grace_s: float = 5.0
    #: The connections of a dead worker have timed out after this (idle timeout and three probes).
    quarantine_s: float = 40.0
    max_start_failures: int = 3


@dataclass(slots=True)
class ReloadResult:
    """The result of the last reload. `reason` is empty when it succeeded."""

    revision: int
    ok: bool
    reason: str
    at_s: float
    took_s: float = 0.0


@dataclass(slots=True)
class State:
    """The state of a node."""

    settings: Settings
    #: Workers wanted; they have the cores 0..target-1.
    target: int
    epochs: tuple[int, ...] = ()
    seal_with: int = 0
    revision: int = 1
    ids: WorkerIds = field(default_factory=WorkerIds)
    state: NodeState = NodeState.STARTING
    workers: dict[int, Worker] = field(default_factory=dict)
    departed: dict[int, Departed] = field(default_factory=dict)
    cores: list[Core] = field(default_factory=list)
    routes: Routes = field(default_factory=Routes)
    rollout: Rollout | None = None
    reloading: Agreement | None = None
    last_reload: ReloadResult | None = None
    #: The epoch that will seal when all workers hold it.
    key_change: Agreement | None = None
    #: Epochs whose connection IDs decode, newest first; those of `epochs` that open nothing.
    cid_epochs: tuple[int, ...] = ()
    closed_epochs: tuple[int, ...] = ()
    #: The epoch of a rotation that has begun, also one that an earlier supervisor began; 0: none.
    announced: int = 0
    #: Epoch -> until when packets with its connection IDs may come although no connection holds one.
    lingering: dict[int, float] = field(default_factory=dict)
    #: Epochs whose connections were asked to move.
    moving: frozenset[int] = frozenset()
    #: What an operator asked for, when workers will be told, and what they were told.
    quiesced: Quiesce | None = None
    drain_at_s: float | None = None
    draining_order: messages.Drain | None = None
    #: An earlier supervisor had quiesced the node, and none of its workers lives: the node starts without accepting.
    quiesce_first: Quiesce | None = None
    #: The node started like that, and has not been resumed since.
    came_back: bool = False
    #: The drain that is running, or the last one; what was measured during it, and the phase that the log has.
    contract: Contract | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    left: Trend = field(default_factory=Trend)
    logged_phase: Phase = Phase.ROUTES
    #: When the node entered its state; how often a supervisor adopted its workers.
    state_since_s: float = 0.0
    adoptions: int = 0
    #: What workers closed because of the last `abort_old`, and the workers that have not reported yet.
    aborted: list[messages.Aborted] = field(default_factory=list)
    aborting: set[int] = field(default_factory=set)
    #: Why the node stops by itself.
    failure: str = ""
    exit_code: int = 0
    now_s: float = 0.0
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cores = [Core(index) for index in range(self.settings.cores)]
        self.cid_epochs = self.cid_epochs or (self.seal_with,)

    # --- questions ----------------------------------------------------------------------------------------------------

    @property
    def accepts(self) -> bool:
        """Whether new connections are taken."""
        if self.state is NodeState.STARTING:
            return self.quiesce_first is None or self.quiesce_first.mode is QuiesceMode.DISCOURAGE
        if self.state is NodeState.SERVING:
            return True
        if self.state is NodeState.QUIESCING:
            return self.draining_order is None or self.discouraging
        return False

    @property
    def discouraging(self) -> bool:
        """Whether connections are asked to leave while new ones are taken."""
        return self.draining_order is not None and self.draining_order.discourage

    @property
    def ready(self) -> bool:
        """What /readyz says: send clients here."""
        return self.state is NodeState.SERVING and bool(self.routes.accepting)

    @property
    def stopping(self) -> bool:
        """Whether the node stops or has stopped: most requests are refused then."""
        return self.state in (NodeState.STOPPING, NodeState.STOPPED)

    @property
    def staying(self) -> list[Worker]:
        """The workers that are not on their way out."""
        return [worker for worker in self.workers.values() if not worker.doomed]

    # --- steps --------------------------------------------------------------------------------------------------------

    def advance(self, event: NodeEvent) -> None:
        """Change the state of the node by its table. Raises `IllegalEvent`."""
        before, self.state = self.state, NODE_TABLE.after(self.state, event)
        if self.state is not before:
            self.state_since_s = self.now_s

    def tell(self, worker: Worker, order: messages.Order) -> None:
        """Send an order to a worker."""
        self.commands.append(Tell(worker.worker_id, order))

    def say(self, text: str, level: str = "info", worker: Worker | None = None) -> None:
        """Write a line to the log."""
        self.commands.append(Say(text, level, worker.worker_id if worker else None))
