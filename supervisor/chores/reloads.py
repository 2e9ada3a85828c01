"""Reloads: read the configuration again, when an operator asks or a file has changed, and apply what was activated.

A configuration that cannot be read, or that changes what only a restart of the node can change, is refused here, before
any worker gets it (reloadable.py). The Node decides about the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from supervisor.chores.reloadable import refuse_fixed, refuse_workers
from supervisor.chores.watch import Signature, Watch, all_below, signature
from supervisor.machine import spawn
from supervisor.machine.materials import gather
from supervisor.node.happenings import Happening, Reload, ReloadFailed, Restart, Scale
from supervisor.parameters import node_settings, worker_options
from supervisor.shell import Shell
from velocity_edge.config.model import Config
from velocity_edge.config.needs import files_of
from velocity_edge.errors import CannotDo, ConfigError, Unavailable
from velocity_edge.machine.worker_user import Rights, choose
from velocity_edge.quic.open_engine import native_missing
from velocity_edge.text.log_levels import parse_levels
from velocity_edge.text.logs import Logs

log = logging.getLogger("supervisor")

_LOOK_S: Final = 1.0


class Reloads:
    """The reloads of one node."""

    def __init__(
        self, shell: Shell, load: Callable[[], Config], files: Sequence[Path], logs: Logs, *, own_program: bool = False
    ) -> None:
        """*load* reads the configuration as it was read at the start; *files* are the ones to watch.

        With *own_program*, a test chose the program of the workers: its command line never changes.
        """
        self._shell = shell
        self._logs = logs
        self._own_program = own_program
        shell.on_activated = self.adapt
        self._load = load
        self._files = tuple(files)
        self._warned: frozenset[str] = frozenset()
        self._watch = Watch(self._watched())

    def reload(self) -> int:
        """Read the configuration again and have the workers try it; return its revision.

        Raises `VelocityError` when it cannot be used; `status` keeps the reason.
        """
        shell = self._shell
        revision = shell.new_revision()
        shell.reload_begins()
        try:
            config = self._load()
            refuse_fixed(shell.active.config, config)
            refuse_workers(config, shell.slots.cores, _engine_missing(config), _user_refused(config))
            shell.materials[revision] = gather(revision, config, shell.places.state)
            shell.happen(Reload(revision))
        except (ConfigError, CannotDo) as error:
            if materials := shell.materials.pop(revision, None):
                materials.close()
            shell.happen(ReloadFailed(revision, str(error)))
            raise
        return revision

    def try_to_reload(self) -> None:
        """Reload without a caller that waits: the log and `status` have the error."""
        try:
            self.reload()
        except (ConfigError, CannotDo):
            pass  # the Node has logged it

    async def watch_files(self) -> None:
        """Reload when the configuration, a certificate or the folder that a root names changes on disk."""
        self._warn()
        while True:
            await asyncio.sleep(_LOOK_S)
            # Forget old kills by the kernel, so that they are not taken as the reason of the next exit.
            self._shell.out_of_memory.happened()
            if self._watch.changed(self._watched()):
                log.info("a file or folder of the configuration has changed")
                self.try_to_reload()

    def adapt(self) -> None:
        """Apply what the revision that was just activated says about the supervisor and about new workers."""
        shell, config = self._shell, self._shell.active.config
        shell.node.settings = node_settings(config, shell.slots.cores)
        restart = False
        if not self._own_program:
            program = [*spawn.WORKER_PROGRAM, *worker_options(config)]
            restart = program != list(shell.worker_program)
            shell.worker_program = program
        self._warn()
        self._logs.use(
            structured=config.server.telemetry.structured_logs,
            level=config.server.log_level,
            levels=parse_levels(config.server.log_levels),
        )
        wanted = config.server.workers
        # Later, not within the happening that activated the revision. Scale before the restart: new workers already
        # have the new program.
        if wanted and wanted != shell.node.target:
            shell.loop.call_soon(self._try, Scale(wanted), "server.workers: use `velocity-edge admin scale`")
        if restart:
            shell.loop.call_soon(
                self._try, Restart(), "server.engine or server.user: use `velocity-edge admin restart`"
            )

    def _warn(self) -> None:
        """Log what is wrong with the revision in use and was right with the one before; `status` has it, too."""
        warnings = self._shell.active.warnings
        for warning in warnings:
            if warning not in self._warned:
                log.warning("%s", warning)
        self._warned = frozenset(warnings)

    def _try(self, happening: Happening, remedy: str) -> None:
        try:
            self._shell.happen(happening)
        except CannotDo as error:
            log.error("%s (%s)", error, remedy)

    def _watched(self) -> Signature:
        config = self._shell.active.config
        tls = config.server.tls
        needs = list(files_of(config))
        files = [*self._files, *(path for path in (tls.certificate, tls.private_key) if path is not None)]
        files += [need.path for need in needs if need.kind == "file" and (need.required or need.path.exists())]
        folders = [need.path for need in needs if need.kind == "directory"]
        # Workers read templates once, when they prepare a revision.
        templates = config.content.templates_dir
        return signature([*files, *(all_below(templates) if templates is not None else ())], folders)


def _engine_missing(config: Config) -> str:
    """Return why workers cannot run the engine that the configuration names; empty when they can."""
    return native_missing() if config.server.engine == "native" else ""


def _user_refused(config: Config) -> str:
    """Return why workers cannot run as the user that the configuration names; empty when they can."""
    try:
        choose(config.server.user, Rights.of_this_process())
    except Unavailable as error:
        return str(error)
    return ""
