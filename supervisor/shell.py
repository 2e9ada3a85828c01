"""The loop around the node: happenings go to `Node.handle`, its commands are carried out. No decision is made here.

One asyncio loop. Channels, pidfds, signals and the clock become happenings (worker_links.py); commands become messages,
processes and steering calls (carry_out.py), in the order in which the node gave them. What a successor must know is
written before they are carried out (state_file.py). After each happening the process title and the service manager get
the new state, and `wait_for_change` returns.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import setproctitle

from supervisor.carry_out import carry_out, retry_disable_file
from supervisor.node.happenings import Happening, Ticked
from supervisor.node.lifecycle import NodeState
from supervisor.node.one_line import status_text, title
from supervisor.resources import Resources
from supervisor.succession.state_file import boot_id
from supervisor.succession.translate import left_behind


@dataclass(slots=True)
class Shell(Resources):
    """A running node."""

    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None
    #: What the service manager was told last.
    _told: NodeState = NodeState.STARTING
    _told_text: str = ""
    _reload_told: bool = False
    _boot_id: str = field(default_factory=boot_id)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when something has happened to the node, or after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def happen(self, happening: Happening) -> None:
        """Report it to the node and carry out what follows. Raises `CannotDo` when the node refuses a request."""
        if self.finished.done():
            return
        given = self.node.handle(happening, self.clock())
        self.keyring.follow(self.node.seal_with, self.node.cid_epochs)
        self._save()
        for command in given:
            carry_out(self, command)
        self._save()
        self._release_materials()
        self._arm()
        self._tell_state()
        self._changed.set()
        self._changed = asyncio.Event()

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

    def _release_materials(self) -> None:
        keep = {self.node.revision, self.node.reloading.target if self.node.reloading else 0}
        for revision in [r for r in self.materials if r not in keep]:
            self.materials.pop(revision).close()

    # --- files --------------------------------------------------------------------------------------------------------

    def keep_files(self) -> None:
        """Restore files that were removed, and try again those that could not be written."""
        if self.state_file.keep():
            self.disable_file.restore()
        self.quiesced_file.retry()
        self.sums_file.save(self.sums, self.clock())
        self.keyring.retry()
        retry_disable_file(self)

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

    # --- the service manager ------------------------------------------------------------------------------------------

    def _status_text(self, *, counting: bool = True) -> str:
        return status_text(self.node, self.steering.tier, self.origin, counting=counting)

    def _tell_state(self) -> None:
        state = self.node.state
        setproctitle.setproctitle(f"velocity-edge: supervisor {title(self.node, self.steering.tier)}")
        up = state in (NodeState.SERVING, NodeState.QUIESCING, NodeState.QUIESCED)
        reloaded = self._reload_told and self.node.reloading is None
        text = self._status_text(counting=False)
        if state is self._told and text == self._told_text and not reloaded:
            return
        was, self._told, self._told_text = self._told, state, text
        if up and was is NodeState.STARTING:
            self.on_serving()
        if up and (state is not was or reloaded):
            self.manager.ready(self._status_text())
        elif state is NodeState.STOPPING and state is not was:
            self.manager.stopping(self._status_text())
        else:
            self.manager.status(self._status_text())
        self._reload_told = self._reload_told and not reloaded

    def reload_begins(self) -> None:
        """Tell the service manager, which is told of the end when workers have agreed or refused."""
        self.manager.reloading()
        self._reload_told = True

    # --- the end ------------------------------------------------------------------------------------------------------

    def replace(self, program: list[str]) -> None:
        """End this supervisor, not the node: *program* takes over."""
        if not self.finished.done():
            self.successor = program
            self.finished.set_result(0)

    def let_go(self) -> None:
        """Leave packet programs, workers and the state file to the successor. Descriptors end with exec."""
        if self._timer:
            self._timer.cancel()
        self._save()
        self.sums_file.save(self.sums)
        self.steering.release()

    def close(self) -> None:
        """The node has stopped: remove everything, except what its service manager keeps for the next start."""
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
        self.sums_file.forget()
        self.state_file.clear()
        self.state_file.close()
        self.closed = True
        self._changed.set()
