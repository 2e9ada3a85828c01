"""Handlers, the middleware around them, and their composition, which decides whether responses may be shared.

A handler is a function from a request to a response. A plain function is the fast path: its response is sent in the
same turn of the loop. A coroutine function may wait (for a body, an upstream) and runs as a task of the worker.
Middleware wraps a handler in another one, once per revision, so that a request costs only what its route uses.

A response that a handler marked `shared` is cached for the rest of the second and sent without calling the handler or
its middleware again (serve/shared_answers.py). That is correct only if every middleware has the same effect for every
client, which authorization or a rate limit has not. So a middleware must declare it (`same_for_all`), and `fold`, which
is the only way from handler and middleware to a `Pipeline`, permits sharing only if all of them do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from workers.http import Answer, Forward, Request, Response

Handler = Callable[[Request], Answer | Awaitable[Answer]]


class Middleware(ABC):
    """Wraps handlers."""

    #: The effect depends on the authority, the target and Accept-Encoding of a request only, and on time only in whole
    #: seconds. With False, responses of handlers inside this middleware are never shared.
    same_for_all: bool = False
    #: It reads or changes the body of responses. A proxy inside it passes bodies through Python, chunk by chunk.
    reads_body: bool = False

    def paths(self) -> Mapping[bytes, Handler]:
        """Return paths that it answers itself on every host where it is used, such as the end of a login."""
        return {}

    @abstractmethod
    def wrap(self, handler: Handler) -> Handler:
        """Return a handler that calls *handler*, or answers itself."""


def then(result: Answer | Awaitable[Answer], change: Callable[[Answer], Answer]) -> Answer | Awaitable[Answer]:
    """Return *result* of a handler with *change* applied, now or when it is there."""
    # Two checks: one against the union of both costs five times as much.
    if isinstance(result, Response) or isinstance(result, Forward):  # noqa: SIM101
        return change(result)
    return _later(result, change)


async def _later(result: Awaitable[Answer], change: Callable[[Answer], Answer]) -> Answer:
    return change(await result)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A handler inside all of its middleware: what the router finds for a request."""

    handle: Handler
    #: A response that is marked `shared` may be sent to others who ask the same.
    may_share: bool
    #: The site in metrics and logs: its first host name. "" for requests that no site answers.
    site: str = ""
    #: The handler knows WebSocket over HTTP/3 (RFC 9220): a 2xx with a body that is produced as it goes is a tunnel. A
    #: handler says so by an attribute `tunnels = True`; a CONNECT never reaches another one, whose 200 would promise a
    #: tunnel.
    tunnels: bool = False


def fold(middlewares: Sequence[Middleware], handler: Handler) -> Pipeline:
    """Wrap *handler*: the first middleware sees the request first and the response last."""
    tunnels = bool(getattr(handler, "tunnels", False))
    for middleware in reversed(middlewares):
        handler = middleware.wrap(handler)
    return Pipeline(handler, all(middleware.same_for_all for middleware in middlewares), tunnels=tunnels)


def own_paths(middlewares: Sequence[Middleware]) -> Iterator[tuple[bytes, Middleware, Pipeline]]:
    """Yield each path that one of *middlewares* answers itself, and the pipeline for it: what is around that one."""
    for i, middleware in enumerate(middlewares):
        for path, handler in middleware.paths().items():
            yield path, middleware, Pipeline(fold(middlewares[:i], handler).handle, may_share=False)
