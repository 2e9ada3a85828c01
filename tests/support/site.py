"""A directory with old files, and the handler that serves it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from velocity_edge.config.content import Site
from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.site import StaticHandler
from workers.http import Request, Response
from workers.pipeline import Handler, Middleware, Pipeline, fold

#: Sun, 09 Sep 2001 01:46:40 GMT
LONG_AGO_S = 1_000_000_000


class Clock:
    """Wall time that tests set."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def write(path: Path, data: bytes | str, when_s: int = LONG_AGO_S) -> Path:
    """Write a file that was modified long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    os.utime(path, (when_s, when_s))
    return path


def handler(root: Path, clock: Clock | None = None, **settings: Any) -> StaticHandler:
    """Return the handler for the directory *root*."""
    return StaticHandler(directory(root), site_section(root, **settings), clock or Clock())


def site_section(root: Path, **settings: Any) -> Site:
    """Return the section of a site for every host."""
    return Site.model_validate({"hostname": "*", "root": str(root), **settings}, strict=False)


def directory(root: Path) -> Descriptor:
    """Return *root* as a supervisor sends it."""
    return Descriptor(os.open(root, os.O_PATH | os.O_DIRECTORY))


def always(handler: Handler, *middleware: Middleware) -> Callable[[Request], Pipeline]:
    """Return a `Revision.find` that finds *handler* inside *middleware* for every request."""
    pipeline = fold(middleware, handler)
    return lambda request: pipeline


def get(static: StaticHandler, target: bytes, *headers: tuple[bytes, bytes], method: bytes = b"GET") -> Response:
    """Ask *static* for *target*."""
    response = static(Request(method, b"localhost", target, headers))
    if isinstance(response, Response):
        return response

    async def wait() -> Response:
        return await response

    return asyncio.run(wait())


def header(response: Response, name: bytes) -> bytes | None:
    """Return one field of *response*."""
    return next((value for key, value in response.headers if key == name), None)
