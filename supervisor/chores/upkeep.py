"""What a node does by itself, or when asked, beyond the life of its workers: reloads, watchdog, signals.

A reload begins with the files: a configuration that cannot be read, or that changes what only a restart of the node can
change, is refused here, before any worker hears of it. The Node decides about the rest.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from supervisor.chores.reloadable import refuse_fixed, refuse_workers
from supervisor.chores.watch import Signature, Watch, signature
from supervisor.machine import spawn
from supervisor.machine.admin_socket import AdminSocket
from supervisor.machine.kept import RETRY_S
from supervisor.machine.materials import gather
from supervisor.node.happenings import Counted, Happening, Reload, ReloadFailed, Restart, Scale, StopNode
from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from supervisor.startup import node_settings, worker_options
from velocity_edge import __version__
from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo, ConfigError
from velocity_edge.status.pressure import totals_of
from velocity_edge.text.logs import Logs
from velocity_edge.wire.slab import total

log = logging.getLogger("supervisor")

_LOOK_S: Final = 1.0
#: For a new installation to import everything, read its files and compile its packet programs.
_CHECK_TIMEOUT_S: Final = 90.0
#: Workers bring their counters up to date once per second.
_COUNT_S: Final = 1.0


class Upkeep:
    """Keeps a node current."""

    def __init__(
        self, shell: Shell, load: Callable[[], Config], file: Path | None, logs: Logs, *, own_program: bool = False
    ) -> None:
        """*load* reads the configuration again as it was read at start; *file* is what to watch.

        With *own_program*, workers are not ours (tests), and what their command line says never changes.
        """
        self._shell = shell
        self._logs = logs
        self._own_program = own_program
        shell.on_activated = self.adapt
        self._load = load
        self._file = file
        self._watch = Watch(self._watched())
        self._upgrading = False
        self._tasks: set[asyncio.Task[None]] = set()

    def reload(self) -> int:
        """Read the configuration again and have the workers try it; return its revision.

        Raises `VelocityError` when it cannot be used; `status` remembers why.
        """
        shell = self._shell
        revision = shell.new_revision()
        shell.reload_begins()
        try:
            config = self._load()
            refuse_fixed(shell.active.config, config)
            refuse_workers(config, shell.slots.cores)
            shell.materials[revision] = gather(revision, config, shell.places.state)
            shell.happen(Reload(revision))
        except (ConfigError, CannotDo) as error:
            if materials := shell.materials.pop(revision, None):
                materials.close()
            shell.happen(ReloadFailed(revision, str(error)))
            raise
        return revision

    def adapt(self) -> None:
        """Take from the revision that has just been activated what concerns the supervisor, and workers to come."""
        shell, config = self._shell, self._shell.active.config
        shell.node.settings = node_settings(config, shell.slots.cores)
        restart = False
        if not self._own_program:
            program = [*spawn.WORKER_PROGRAM, *worker_options(config)]
            restart = program != list(shell.worker_program)
            shell.worker_program = program
        self._logs.use(structured=config.server.telemetry.structured_logs, level=config.server.log_level)
        wanted = config.server.workers
        # Not from within the happening that activated the revision; first those that come, as newcomers they know it.
        if wanted and wanted != shell.node.target:
            shell.loop.call_soon(self._try, Scale(wanted), "server.workers: `velocity-edge admin scale` would do it")
        if restart:
            why = "server.engine or server.user: `velocity-edge admin restart` would do it"
            shell.loop.call_soon(self._try, Restart(), why)

    def _try(self, happening: Happening, key: str) -> None:
        try:
            self._shell.happen(happening)
        except CannotDo as error:
            log.error("%s (%s)", error, key)

    async def upgrade(self) -> str:
        """Become the installation that is on disk now: same process, same workers, sockets and programs; then roll.

        The new one must be able to start with our options, files and workers: it is asked first (`--check`), and says
        its version, which is returned. Raises `CannotDo`. What follows is an adoption like any other (adoption.py), so
        that a new supervisor that dies on the way changes nothing either.
        """
        shell = self._shell
        self._refuse_upgrade()
        if self._upgrading:
            raise CannotDo("cannot upgrade: an upgrade is under way")
        program = [sys.executable, "-I", "-m", "supervisor"]
        arguments = [argument for argument in sys.argv[1:] if argument != "--roll"]
        self._upgrading = True
        try:
            version = await _checked([*program, *arguments, "--check"])
            self._refuse_upgrade()  # things may have changed meanwhile
        finally:
            self._upgrading = False
        log.info("upgrading from %s to %s", __version__, version)
        shell.replace([*program, *arguments, "--roll"])
        return version

    def _refuse_upgrade(self) -> None:
        node = self._shell.node
        if node.state in (NodeState.STARTING, NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo(f"cannot upgrade: the node is {node.state}")
        if node.rollout and node.rollout.running:
            raise CannotDo(f"cannot upgrade: a restart is under way, {node.rollout.progress}")

    async def try_to_upgrade(self) -> None:
        """Upgrade for nobody who waits."""
        try:
            await self.upgrade()
        except CannotDo as error:
            log.error("%s", error)

    def listen_to_signals(self) -> None:
        """TERM, QUIT: drain, then stop. INT: stop. HUP: reload. USR2: upgrade. TERM is what service managers send."""
        add = self._shell.loop.add_signal_handler
        add(signal.SIGTERM, self._shell.happen, StopNode())
        add(signal.SIGQUIT, self._stop_for_good, StopNode())
        add(signal.SIGINT, self._stop_for_good, StopNode(fast=True))
        add(signal.SIGHUP, self.try_to_reload)
        add(signal.SIGUSR2, self._start, self.try_to_upgrade)

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._shell.loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop_for_good(self, stop: StopNode) -> None:
        self._shell.stopped_for_good = True
        self._shell.happen(stop)

    def try_to_reload(self) -> None:
        """Reload for nobody who waits: what cannot be is in the log and in `status`."""
        try:
            self.reload()
        except (ConfigError, CannotDo):
            pass  # the node has said it

    async def watch_files(self) -> None:
        """Reload when the configuration, a certificate or the folder that a root names changes on disk."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._shell.out_of_memory.happened()  # an end of long ago is not that of who dies next
            if self._watch.changed(self._watched()):
                log.info("a file or folder of the configuration has changed")
                self.try_to_reload()

    async def keep_files(self, socket: AdminSocket) -> None:
        """Bring back what somebody removed from the runtime directory, and write what could not be written."""
        while True:
            await asyncio.sleep(RETRY_S)
            self._shell.keep_files()
            if self._shell.state_file.ours:
                await socket.keep()

    async def count_arrivals(self) -> None:
        """While the node drains: tell it every second how many handshakes were completed."""
        shell = self._shell
        while True:
            if shell.node.contract and shell.node.contract.running:
                counters = total(slot.slab for slot in shell.slots)
                shell.happen(Counted(counters["handshakes_completed"]))
            await asyncio.sleep(_COUNT_S)

    async def watch_pressure(self) -> None:
        """Say under which rules the node defends itself; `status` has it too."""
        shell = self._shell
        while True:
            await asyncio.sleep(_COUNT_S)
            counters = total(slot.slab for slot in shell.slots)
            for line in shell.pressure.observe(totals_of(counters, shell.steering.counters()), shell.clock()):
                level = logging.INFO if line.over else logging.WARNING
                log.log(level, "%s", line.text, extra={"rule": line.rule})

    async def feed_watchdog(self) -> None:
        """Tell the service manager that this loop turns and does its work, if it wants to know.

        A worker without a heartbeat is ours to replace, no reason to be restarted. One that is silent and has not been
        replaced in time is: then we do not do what we are for, and a successor will.
        """
        shell = self._shell
        if shell.manager.watchdog_s is None:
            return
        # A predecessor that became us by an upgrade has asked for more patience.
        shell.manager.watchdog_within(shell.manager.watchdog_s)
        while True:
            behind_s = shell.node.behind_s(shell.clock())
            if behind_s <= shell.node.settings.grace_s:
                shell.manager.alive()
            else:
                log.error("%.0f s behind: the watchdog is not fed", behind_s)
            await asyncio.sleep(shell.manager.watchdog_s / 3)

    def _watched(self) -> Signature:
        config = self._shell.active.config
        tls = config.server.tls
        paths = [self._file, tls.certificate, tls.private_key]
        return signature([path for path in paths if path is not None], [site.root for site in config.content.sites])


async def _checked(command: list[str]) -> str:
    """Have an installation say whether it would start; return its version. Raises `CannotDo` with its reason.

    Not waited for in a blocking call: meanwhile workers report, and a crashed one is replaced.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise CannotDo(f"cannot upgrade: the new program does not start: {error.strerror}") from None
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            output, errors = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise CannotDo(
            f"cannot upgrade: the new program does not start: no answer for {_CHECK_TIMEOUT_S:g} s"
        ) from None
    if child.returncode != 0:
        last = (errors.decode(errors="replace").strip().splitlines() or [f"it ends with {child.returncode}"])[-1]
        raise CannotDo(f"cannot upgrade: the new program does not start: {last.removeprefix('velocity-edge: ')}")
    return output.decode(errors="replace").strip()
