"""Everything that a running node has: its decisions (`Node`), sockets, steering, keys, files, processes, clocks.

Only data and the questions about it. The functions that act on it are in worker_links.py (channels and processes of
workers), carry_out.py (commands) and shell.py (`Shell`, which adds the loop of happenings). The
admin API follows the node by `Shell.wait_for_change` and `listeners`.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from supervisor.machine.kept import KeptFile, Trouble
from supervisor.machine.keyring import Keyring
from supervisor.machine.materials import Materials
from supervisor.machine.oom import OutOfMemory
from supervisor.machine.slots import Slots
from supervisor.machine.spawn import Process
from supervisor.machine.systemd import ServiceManager
from supervisor.node.happenings import Happening
from supervisor.node.node import Node
from supervisor.steering.base import Steering
from supervisor.succession.fd_store import Store
from supervisor.succession.quiesced_file import QuiescedFile
from supervisor.succession.state_file import StateFile
from supervisor.succession.sums_file import SumsFile
from velocity_edge.paths import Places
from velocity_edge.status.history import History
from velocity_edge.status.pressure import Pressure
from velocity_edge.status.sums import Sums
from velocity_edge.wire import messages
from velocity_edge.wire.channel import Channel


@dataclass(slots=True)
class Resources(ABC):
    """What the node's commands act on."""

    node: Node
    slots: Slots
    steering: Steering
    keyring: Keyring
    state_file: StateFile
    places: Places
    manager: ServiceManager
    store: Store
    quiesced_file: QuiescedFile
    #: The CPU of each core.
    cpus: list[int]
    node_id: int
    worker_program: Sequence[str]
    #: Revision -> what it names. The active one, and one that is being tried.
    materials: dict[int, Materials]
    #: The newest number that any revision had.
    last_revision: int
    #: Sentences for `status`: what start-up found to be less than it should be.
    notes: list[str] = field(default_factory=list)
    metrics_address: str = ""
    #: What an earlier supervisor left to this one, for `systemctl status`.
    origin: str = ""
    #: An operator stops the node: nothing of it stays. False: its service manager may start it again.
    stopped_for_good: bool = False
    pressure: Pressure = field(default_factory=Pressure)
    out_of_memory: OutOfMemory = field(default_factory=OutOfMemory)
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    started_at_s: float = field(default_factory=time.time)
    started_s: float = field(default_factory=time.monotonic)
    processes: dict[int, Process] = field(default_factory=dict)
    channels: dict[int, Channel[messages.Report]] = field(default_factory=dict)
    start_ticks: dict[int, int] = field(default_factory=dict)
    #: Workers whose channel has more to write than the kernel takes.
    writing: set[int] = field(default_factory=set)
    #: Called with each line that the node logs: (level, text).
    listeners: list[Callable[[str, str], None]] = field(default_factory=list)
    #: The node uses another revision, which may concern the supervisor itself.
    on_activated: Callable[[], None] = lambda: None
    on_serving: Callable[[], None] = lambda: None
    #: What does not work and the node does without, by name: for `status`.
    troubles: dict[str, Trouble] = field(default_factory=dict)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    #: What workers measure.
    sums: Sums = field(default_factory=Sums)
    history: History = field(default_factory=History)
    #: Levels that an operator wants for a time (text/log_levels.py), "" for none, and until when.
    log_levels: str = ""
    log_levels_until_s: float = 0.0
    on_log_levels: Callable[[str], None] = lambda levels: None
    #: Program to become when `finished` (an upgrade); None: the node has stopped.
    successor: list[str] | None = None
    finished: asyncio.Future[int] = field(init=False)
    #: Sockets, programs and the lock are closed. Only requests that wait for the end of the node are still answered.
    closed: bool = False
    disable_file: KeptFile = field(init=False)
    sums_file: SumsFile = field(init=False)

    def __post_init__(self) -> None:
        self.sums_file = SumsFile(self.places.runtime)
        self.finished = self.loop.create_future()
        cost = "health checkers do not see what this node wants"
        self.disable_file = KeptFile(self.places.disable_file, cost, mode=0o644, folder_mode=0o755)

    @abstractmethod
    def happen(self, happening: Happening) -> None:
        """Report a happening to the node and carry out the commands that follow."""

    def steady_clock(self) -> float:
        """Return seconds since 1970 by the wall clock at start and the monotonic one since: it is never set."""
        return self.started_at_s + self.clock() - self.started_s

    def new_revision(self) -> int:
        """Return a number that no revision had: a late report about a refused one must not count for the next."""
        self.last_revision += 1
        return self.last_revision

    @property
    def active(self) -> Materials:
        """What the node serves."""
        return self.materials[self.node.revision]

    def problems(self) -> list[str]:
        """Return what is wrong with files, for `status`."""
        found = [*self.state_file.problems, self.quiesced_file.problem, self.keyring.problem, self.disable_file.problem]
        found.append(self.sums_file.problem)
        return [text for text in (*found, *(trouble.text for trouble in self.troubles.values())) if text]
