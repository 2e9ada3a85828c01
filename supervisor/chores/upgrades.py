"""Upgrades: the supervisor becomes the installation that is on disk now, by exec, and adopts its own workers.

The new installation is asked first whether it could start (`--check`). It runs with the same options, in the same
process, with the same workers, sockets and packet programs. What follows is an adoption like any other
(supervisor/succession/adoption.py), so a new supervisor that dies on the way changes nothing either.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Final

from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from velocity_edge import __version__
from velocity_edge.errors import CannotDo

log = logging.getLogger("supervisor")

#: For a new installation to import everything, read its files and compile its packet programs.
_CHECK_TIMEOUT_S: Final = 90.0


class Upgrades:
    """The upgrades of one node."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._under_way = False

    async def upgrade(self) -> str:
        """Have the shell replace this program, then restart the workers; return the new version.

        Raises `CannotDo` when the node is in no state for it, or the new installation could not start.
        """
        self._refuse()
        if self._under_way:
            raise CannotDo("cannot upgrade: an upgrade is under way")
        program = [sys.executable, "-I", "-m", "supervisor"]
        arguments = [argument for argument in sys.argv[1:] if argument != "--roll"]
        self._under_way = True
        try:
            version = await checked_version([*program, *arguments, "--check"])
            self._refuse()  # the state may have changed meanwhile
        finally:
            self._under_way = False
        log.info("upgrading from %s to %s", __version__, version)
        self._shell.replace([*program, *arguments, "--roll"])
        return version

    async def try_to_upgrade(self) -> None:
        """Upgrade without a caller that waits: the log has the error."""
        try:
            await self.upgrade()
        except CannotDo as error:
            log.error("%s", error)

    def _refuse(self) -> None:
        node = self._shell.node
        if node.state in (NodeState.STARTING, NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo(f"cannot upgrade: the node is {node.state}")
        if node.rollout and node.rollout.running:
            raise CannotDo(f"cannot upgrade: a restart is under way, {node.rollout.progress}")


async def checked_version(command: list[str]) -> str:
    """Run the check of an installation; return its version. Raises `CannotDo` with its reason.

    It must not block: meanwhile workers report, and a crashed one is replaced.
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
