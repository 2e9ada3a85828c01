"""The hands of the node: waits for the world, feeds `Node.handle`, carries out its commands. No decision is made here.

One asyncio loop. Channels, pidfds, signals and the clock become happenings; commands become messages, processes and
steering calls, in the order in which the node gave them. What a successor must know is written before they are carried
out (state.py). Whoever wants to follow along (the admin API, sd_notify, the process title) looks at the node after each
happening: `changed`, `lines`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import setproctitle

from supervisor.machine import spawn
from supervisor.machine.kept import KeptFile, Trouble
from supervisor.machine.keyring import Keyring
from supervisor.machine.materials import Materials
from supervisor.machine.oom import OutOfMemory
from supervisor.machine.places import Places
from supervisor.machine.slots import Slots
from supervisor.machine.spawn import Process
from supervisor.machine.systemd import ServiceManager
from supervisor.node import commands
from supervisor.node.happenings import (
    Broke,
    DisableFileRemoved,
    DisableFileWritten,
    Exited,
    Happening,
    HungUp,
    Reported,
    Ticked,
)
from supervisor.node.lifecycle import NodeState
from supervisor.node.node import Node
from supervisor.node.one_line import status_text, title
from supervisor.steering.base import Steering
from supervisor.succession.fd_store import Store
from supervisor.succession.quiesced_file import QuiescedFile
from supervisor.succession.state_file import StateFile, boot_id
from supervisor.succession.translate import left_behind
from velocity_edge.status.pressure import Pressure
from velocity_edge.wire import channel as c
from velocity_edge.wire import messages as m

log = logging.getLogger("supervisor")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(slots=True)
class Shell:
    """Everything that the node's commands act on."""

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
    #: Sentences for `status`: what start-up found to be less than it should.
    notes: list[str] = field(default_factory=list)
    metrics_address: str = ""
    #: What an earlier supervisor left to this one, for `systemctl status`.
    origin: str = ""
    #: A person wants the node gone; None of what it was told outlives it. False: its service manager may bring it back.
    stopped_for_good: bool = False
    pressure: Pressure = field(default_factory=Pressure)
    out_of_memory: OutOfMemory = field(default_factory=OutOfMemory)
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    started_at_s: float = field(default_factory=time.time)
    started_s: float = field(default_factory=time.monotonic)
    processes: dict[int, Process] = field(default_factory=dict)
    channels: dict[int, c.Channel[m.Report]] = field(default_factory=dict)
    start_ticks: dict[int, int] = field(default_factory=dict)
    #: Called with each line that the node says: (level, text).
    listeners: list[Callable[[str, str], None]] = field(default_factory=list)
    #: The node uses another revision: what of it concerns the supervisor itself.
    on_activated: Callable[[], None] = lambda: None
    on_serving: Callable[[], None] = lambda: None
    #: What does not go as it should and the node does without, by name: for `status`.
    troubles: dict[str, Trouble] = field(default_factory=dict)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    #: Program to become when `finished` (an upgrade); None: the node has stopped.
    successor: list[str] | None = None
    finished: asyncio.Future[int] = field(init=False)
    #: All is closed: sockets, programs, lock. Only those who wait for the end of the node are still to be told.
    closed: bool = False
    disable_file: KeptFile = field(init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None
    _writing: set[int] = field(default_factory=set)
    _told: NodeState = NodeState.STARTING
    _told_text: str = ""
    _reload_told: bool = False
    _boot_id: str = field(default_factory=boot_id)

    def __post_init__(self) -> None:
        self.finished = self.loop.create_future()
        cost = "health checkers do not see what this node wants"
        self.disable_file = KeptFile(self.places.disable_file, cost, mode=0o644, folder_mode=0o755)

    def steady_clock(self) -> float:
        """Return seconds since 1970 by the wall clock at start and the monotonic one since: nobody sets it."""
        return self.started_at_s + self.clock() - self.started_s

    def new_revision(self) -> int:
        """Return a number that no revision had: a late word about a refused one must not count for the next."""
        self.last_revision += 1
        return self.last_revision

    @property
    def active(self) -> Materials:
        """What the node serves."""
        return self.materials[self.node.revision]

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when something has happened to the node, or after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    # --- happenings -----------------------------------------------------------------------------------------------

    def happen(self, happening: Happening) -> None:
        """Give it to the node and do what it wants. Raises `CannotDo` when the node refuses a request."""
        if self.finished.done():
            return
        given = self.node.handle(happening, self.clock())
        self.keyring.follow(self.node.seal_with, self.node.cid_epochs)
        self._save()
        for command in given:
            self._do(command)
        self._save()
        self._forget_materials()
        self._arm()
        self._tell_state()
        self._changed.set()
        self._changed = asyncio.Event()

    def attach(self, worker_id: int, process: Process, channel: c.Channel[m.Report]) -> None:
        """Listen to a worker, and for its end."""
        self.processes[worker_id], self.channels[worker_id] = process, channel
        self.start_ticks[worker_id] = spawn.start_ticks(process.pid) or 0
        self.loop.add_reader(process.pidfd, self._on_exit, worker_id)
        self.loop.add_reader(channel.fileno(), self._on_report, worker_id)

    def _on_exit(self, worker_id: int) -> None:
        self._on_report(worker_id)  # its last words
        self._detach_channel(worker_id)
        process = self.processes.pop(worker_id)
        self.loop.remove_reader(process.pidfd)
        status = process.exit_status()
        process.close()
        self.slots[self.node.workers[worker_id].slot].slab.take_over()
        self.happen(Exited(worker_id, status, out_of_memory=self.out_of_memory.happened()))

    def _on_report(self, worker_id: int) -> None:
        channel = self.channels.get(worker_id)
        if channel is None:
            return
        try:
            received = channel.receive()
        except m.MessageError as error:
            self._detach_channel(worker_id)
            self.happen(Broke(worker_id, str(error)))
            return
        for item in received:
            for fd in item.descriptors:
                os.close(fd)  # nobody asked for any; the node condemns who sends `Held`
            self.happen(Reported(worker_id, item.message))
        if channel.closed and worker_id in self.channels:
            self._detach_channel(worker_id)
            self.happen(HungUp(worker_id))

    def _on_writable(self, worker_id: int) -> None:
        channel = self.channels[worker_id]
        channel.flush()
        self._watch_writable(worker_id, channel)

    def _watch_writable(self, worker_id: int, channel: c.Channel[m.Report]) -> None:
        if channel.pending and worker_id not in self._writing:
            self._writing.add(worker_id)
            self.loop.add_writer(channel.fileno(), self._on_writable, worker_id)
        elif not channel.pending and worker_id in self._writing:
            self._writing.discard(worker_id)
            self.loop.remove_writer(channel.fileno())

    def _detach_channel(self, worker_id: int) -> None:
        channel = self.channels.pop(worker_id, None)
        if channel is None:
            return
        self.loop.remove_reader(channel.fileno())
        if worker_id in self._writing:
            self._writing.discard(worker_id)
            self.loop.remove_writer(channel.fileno())
        channel.close()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        at_s = self.node.next_deadline_s()
        if at_s is not None and not self.finished.done():
            self._timer = self.loop.call_at(at_s, self._tick)

    def _tick(self) -> None:
        serving = {worker_id: worker.slot for worker_id, worker in self.node.workers.items() if worker.serving}
        self.happen(Ticked(self.slots.progress(serving)))

    # --- commands ---------------------------------------------------------------------------------------------------

    def _do(self, command: commands.Command) -> None:
        match command:
            case commands.Spawn():
                self._spawn(command)
            case commands.Kill(worker_id):
                if process := self.processes.get(worker_id):
                    process.kill()
            case commands.Equip():
                self._equip(command)
            case commands.Keep(worker_id, slot):
                self._keep(worker_id, slot)
            case commands.GiveKeys(worker_id, epochs, seal_with):
                self._send(worker_id, self.keyring.order(epochs, seal_with))
            case commands.GiveConfig(worker_id, revision):
                self._give_config(worker_id, self.materials[revision], revision)
            case commands.Tell(worker_id, order):
                self._send(worker_id, order)
            case commands.Lend(worker_id, slot, core):
                self.steering.lend(worker_id, slot, self.cpus[core])
            case commands.Forget(worker_id):
                self.steering.forget(worker_id)
            case commands.Accept(worker_ids):
                self.steering.accept(list(worker_ids))
            case commands.UseCidKeys():
                self.steering.use_cid_configs(self.keyring.cid_configs())
            case commands.WriteDisableFile(reason):
                # Not from within the happening that wants it.
                self.loop.call_soon(self._disable, reason)
            case commands.RemoveDisableFile():
                self.loop.call_soon(self._enable)
            case commands.Activated():
                self.use_dispatch_settings()
                self.on_activated()
            case commands.Say(text, level):
                log.log(_LEVELS[level], "%s", text)
                for listener in list(self.listeners):
                    listener(level, text)
            case commands.Quit(exit_code):
                self.finished.set_result(exit_code)
            case _ as forgotten:
                assert_never(forgotten)

    def use_dispatch_settings(self) -> None:
        """Give the shield the limits of the active revision."""
        dispatch = self.active.config.dispatch
        self.steering.limits(
            initials_per_s=dispatch.initials_per_s,
            burst=dispatch.initials_burst,
            slip=dispatch.slip,
            attack=dispatch.attack,
        )
        self.steering.deny(dispatch.denied)

    def _disable(self, reason: str) -> None:
        """Write the disable file, as a whole: who reads it while it is written sees all of it or none."""
        error = self.disable_file.should_be(f"{reason or 'drain'}\n".encode(), again=True)
        self.happen(DisableFileWritten(error))
        if error and not (self.node.contract and self.node.contract.holds):
            self.disable_file.give_up()

    def _enable(self) -> None:
        if not self.disable_file.should_be(None, again=True):
            self.happen(DisableFileRemoved())

    def keep_files(self) -> None:
        """Bring back the files that somebody removed, and try again those that could not be written."""
        if self.state_file.keep():
            self.disable_file.restore()
        self.quiesced_file.retry()
        self.keyring.retry()
        if self.disable_file.behind and not self.disable_file.retry():
            there = self.node.contract is not None and self.node.contract.holds
            self.happen(DisableFileWritten("") if there else DisableFileRemoved())

    def problems(self) -> list[str]:
        """Return what is wrong with files, for `status`."""
        found = [*self.state_file.problems, self.quiesced_file.problem, self.keyring.problem, self.disable_file.problem]
        return [text for text in (*found, *(trouble.text for trouble in self.troubles.values())) if text]

    def _spawn(self, command: commands.Spawn) -> None:
        ours, theirs = c.pair()
        try:
            cpu = self.cpus[command.core]
            process = spawn.spawn(
                self.worker_program, command.worker_id, command.slot, cpu, theirs, patient=command.patient
            )
        except OSError as error:
            log.error("cannot start worker %d: %s", command.worker_id, error.strerror)
            ours.close()
            self.loop.call_soon(self.happen, Exited(command.worker_id, None))
            return
        finally:
            theirs.close()
        self.attach(command.worker_id, process, c.Channel(ours, m.decode_report))
        if command.patient:
            self.loop.call_later(spawn.PATIENCE_S, self._hurry, command.worker_id)

    def _hurry(self, worker_id: int) -> None:
        if worker_id in self.processes:
            self.processes[worker_id].hurry()

    def _equip(self, command: commands.Equip) -> None:
        if self.slots[command.slot].renew_slab(command.slot):
            self.store.renew_slab(command.slot, self.slots[command.slot].slab_fd)
            # Who keeps this slot for our successor should hold the slab that counts from now on.
            for keeper in self.node.workers.values():
                keeps = keeper.slot == command.keep or command.slot in keeper.keeps
                if keeps and keeper.worker_id != command.worker_id:
                    self._keep(keeper.worker_id, command.slot)
        path = str(self.places.workers_socket)
        order = m.Equip(self.node_id, self.slots.listeners, len(self.slots), path)
        self._send(command.worker_id, order, self.slots.equipment(command.slot))
        self._keep(command.worker_id, command.keep)

    def _keep(self, worker_id: int, slot: int) -> None:
        self._send(worker_id, m.Keep(slot), self.slots[slot].bundle.pack())

    def _give_config(self, worker_id: int, materials: Materials, revision: int) -> None:
        order = m.Configure(revision, materials.config_json, materials.chains, list(materials.roots))
        self._send(worker_id, order, list(materials.roots.values()))

    def _send(self, worker_id: int, order: m.Order, descriptors: Sequence[int] = ()) -> None:
        channel = self.channels.get(worker_id)
        if channel is None:
            return  # it hung up; its end is on the way
        try:
            channel.send(order, descriptors)
        except c.ChannelFull as error:
            self._detach_channel(worker_id)
            self.loop.call_soon(self.happen, Broke(worker_id, f"it does not read its channel: {error}"))
            return
        self._watch_writable(worker_id, channel)

    # --- what others should know --------------------------------------------------------------------------------------

    def _forget_materials(self) -> None:
        keep = {self.node.revision, self.node.reloading.target if self.node.reloading else 0}
        for revision in [r for r in self.materials if r not in keep]:
            self.materials.pop(revision).close()

    def _save(self) -> None:
        node = self.node
        if not self.stopped_for_good:
            self.quiesced_file.keep(node)
        if node.state is NodeState.STOPPED:
            self.state_file.clear()
            return
        processes = {i: (process.pid, self.start_ticks[i]) for i, process in self.processes.items()}
        self.state_file.save(
            left_behind(
                node,
                processes,
                boot_id=self._boot_id,
                cpus=self.cpus,
                listeners=self.slots.listeners,
                last_revision=self.last_revision,
                config=self.active.config_json,
                roll=self.successor is not None,
            )
        )

    def _tell_state(self) -> None:
        state = self.node.state
        setproctitle.setproctitle(f"velocity-edge: supervisor {title(self.node, self.steering.tier)}")
        up = state in (NodeState.SERVING, NodeState.QUIESCING, NodeState.QUIESCED)
        reloaded = self._reload_told and self.node.reloading is None
        text = status_text(self.node, self.steering.tier, self.origin, counting=False)
        if state is self._told and text == self._told_text and not reloaded:
            return
        was, self._told, self._told_text = self._told, state, text
        if up and was is NodeState.STARTING:
            self.on_serving()
        if up and (state is not was or reloaded):
            self.manager.ready(status_text(self.node, self.steering.tier, self.origin))
        elif state is NodeState.STOPPING and state is not was:
            self.manager.stopping(status_text(self.node, self.steering.tier, self.origin))
        else:
            self.manager.status(status_text(self.node, self.steering.tier, self.origin))
        self._reload_told = self._reload_told and not reloaded

    def reload_begins(self) -> None:
        """Tell the service manager, which hears of its end when workers have agreed or not."""
        self.manager.reloading()
        self._reload_told = True

    def replace(self, program: list[str]) -> None:
        """End this supervisor, not the node: *program* goes on with it."""
        if not self.finished.done():
            self.successor = program
            self.finished.set_result(0)

    def let_go(self) -> None:
        """Leave everything at work for the successor: programs, workers, the state file. Descriptors end with exec."""
        if self._timer:
            self._timer.cancel()
        self._save()
        self.steering.release()

    def close(self) -> None:
        """The node has stopped: leave no trace, but what its service manager may want for another one."""
        if self._timer:
            self._timer.cancel()
        self.steering.detach()
        if self.stopped_for_good:
            self.quiesced_file.forget()
            if self.node.contract and self.node.contract.file_there:
                self.disable_file.should_be(None, again=True)
            self.store.clear()
        else:
            self.store.release(self.slots.cores)
        self.slots.close()
        for materials in self.materials.values():
            materials.close()
        self.state_file.clear()
        self.state_file.close()
        self.closed = True
        self._changed.set()
