"""The socket of the admin API, `<runtime>/admin.sock`. It is opened again when it is removed while the node runs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from aiohttp import web

from supervisor.machine import http_log
from supervisor.machine.kept import Trouble
from velocity_edge.errors import VelocityError

#: For answers that are being sent when the node ends, such as those to clients that wait for its end.
_LAST_ANSWERS_S: Final = 1.0


class AdminSocket:
    """The listening socket of one node."""

    def __init__(self, app: web.Application, path: Path) -> None:
        self._path = path
        self._runner = web.AppRunner(
            app, access_log=None, logger=http_log.log, handle_signals=False, shutdown_timeout=_LAST_ANSWERS_S
        )
        self._site: web.UnixSite | None = None
        self._inode = 0
        self.trouble = Trouble("admin commands do not reach this node; signals do")

    async def open(self) -> None:
        """Listen, in place of the socket of an earlier supervisor. Raises `VelocityError`."""
        await self._runner.setup()
        try:
            await self._listen()
        except (OSError, ValueError) as error:
            await self._runner.cleanup()
            raise VelocityError(f"cannot listen on {self._path}: {_reason(error)}") from None

    async def keep(self) -> None:
        """Listen again when the socket is not the one that was made here. No other supervisor may own the folder."""
        if self._there():
            return
        before = self._site
        try:
            await self._listen()
        except (OSError, ValueError) as error:
            self.trouble.begins(f"cannot listen on {self._path}: {_reason(error)}")
            return
        self.trouble.ends(f"listen on {self._path}")
        if before is not None:
            await before.stop()

    async def close(self) -> None:
        """Finish the answers that are being sent, and remove the socket."""
        ours = self._there()
        await self._runner.cleanup()
        if ours:
            with contextlib.suppress(OSError):  # the next node replaces it
                self._path.unlink()

    def _there(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    async def _listen(self) -> None:
        site = web.UnixSite(self._runner, str(self._path))
        # The socket must never have a wider mode than its final one.
        before = os.umask(0o117)
        try:
            await site.start()
        except BaseException:
            await site.stop()
            raise
        finally:
            os.umask(before)
        self._site, self._inode = site, self._path.stat().st_ino


def _reason(error: Exception) -> str:
    if "too long" in str(error):
        return "the path of a socket has at most 107 bytes; choose a shorter VELOCITY_RUNTIME_DIR"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
