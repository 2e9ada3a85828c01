"""The admin service without a transport: a typed request becomes the operation that yields its answer.

The table has one operation for each verb of velocity_edge/admin/verbs.py. HTTP (api.py) comes in here; another
transport would do the same. Rules that hold for all operations:

- The first line is yielded when the node has agreed. A refusal before it raises `CannotDo`, `ConfigError` or
  `BadRequest`, and nothing has changed; a refusal after it is the last line.
- The last line has an exit code (velocity_edge/exits.py).
- An operation belongs to the node, not to its caller. When the caller leaves, it goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from supervisor.admin.leaving import Departures
from supervisor.admin.log_level import LogLevelOperation
from supervisor.admin.operations import Operations
from supervisor.admin.tickets import TicketOperations
from supervisor.chores.reloads import Reloads
from supervisor.chores.rotation import Rotation
from supervisor.chores.upgrades import Upgrades
from supervisor.shell import Shell
from velocity_edge.admin import requests
from velocity_edge.admin.answers import Answer
from velocity_edge.admin.requests import BadRequest, Request
from velocity_edge.errors import CannotDo, ConfigError
from velocity_edge.exits import Exit


class Service:
    """The operations of one node, by the type of the request."""

    def __init__(self, shell: Shell, reloads: Reloads, upgrades: Upgrades) -> None:
        operations, departures = Operations(shell, reloads, upgrades), Departures(shell)
        keys = TicketOperations(shell, Rotation(shell))
        self.operations: Mapping[type[Request], Callable[[Any], AsyncIterator[Answer]]] = {
            requests.Quiesce: departures.quiesce,
            requests.Drain: departures.drain,
            requests.Resume: departures.resume,
            requests.Restart: operations.restart,
            requests.Reload: operations.reload,
            requests.ShowConfig: operations.config,
            requests.Upgrade: operations.upgrade,
            requests.Abort: operations.abort,
            requests.Scale: operations.scale,
            requests.LogLevel: LogLevelOperation(shell).set,
            requests.Stop: operations.stop,
            requests.RotateKeys: keys.rotate,
            requests.ExpireKeys: keys.expire,
            requests.ExportKeys: keys.export,
            requests.ImportKeys: keys.merge,
        }

    async def answer(self, request: Request) -> AsyncIterator[Answer]:
        """Do what *request* asks; yield the lines of the answer."""
        begun = False
        try:
            async for line in self.operations[type(request)](request):
                begun = True
                yield line
        except (CannotDo, ConfigError, BadRequest) as error:
            if not begun:
                raise
            yield Answer(str(error), None, Exit.IMPOSSIBLE)
