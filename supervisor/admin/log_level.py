"""The operation on log levels: for a time, in the supervisor and in all workers, also those that start meanwhile.

It is no decision of the node: nothing depends on it. Workers end it by themselves after the time, so a supervisor that
dies meanwhile leaves none at `debug` for ever. Short because it is one operation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from supervisor import worker_links
from supervisor.shell import Shell
from velocity_edge.admin import requests
from velocity_edge.admin.answers import Answer
from velocity_edge.exits import Exit
from velocity_edge.text.log_levels import parse_levels

#: Without another time, and at most: someone forgets it, and debug lines fill a disk.
DEFAULT_S: Final = 600.0
MAX_S: Final = 86_400.0


class LogLevelOperation:
    """The log levels of one node."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def set(self, request: requests.LogLevel) -> AsyncIterator[Answer]:
        """Use these levels; without any, those of the configuration."""
        shell, levels = self._shell, parse_levels(request.levels or "")
        for_s = min(DEFAULT_S if request.for_s is None else request.for_s, MAX_S)
        worker_links.set_log_levels(shell, str(levels), for_s)
        if shell.log_levels:
            yield Answer(f"logging {shell.log_levels} for {for_s:.0f} s", None, Exit.DONE)
        else:
            yield Answer("logging as configured", None, Exit.DONE)
