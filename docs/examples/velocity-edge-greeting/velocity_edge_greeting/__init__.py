"""An example package: two handlers and a middleware of one's own.

routes:
  - match: {path: "/greet/{name}"}
    action: {type: plugin, name: greeting, options: {words: Hello}}
    middlewares: [stamped]
  - match: {path: /echo, methods: [POST]}
    action: {type: plugin, name: echo}
middlewares:
  - {name: stamped, kind: plugin, plugin: stamp, options: {field: x-stamp}}
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from workers.body import BodyTooLarge
from workers.http import Answer, HeadEdit, Request, Response, plain
from workers.pipeline import Handler, Middleware, then

_MAX_ECHO_BYTES = 64 * 1024


def greeting(options: Mapping[str, Any]) -> Handler:
    """Return a handler that answers at once: a plain function, called for every request in the worker's loop."""
    words = options.get("words", "Hello")
    if not isinstance(words, str):
        raise ValueError(f"words must be text, not {words!r}")

    def handle(request: Request) -> Response:
        return plain(200, f"{words}, {request.params.get('name', 'you')}!")

    return handle


def echo(options: Mapping[str, Any]) -> Handler:
    """Return a handler that waits: a coroutine function, which runs as a task and is cancelled when the client goes."""
    if options:
        raise ValueError(f"echo has no options, not {', '.join(options)}")

    async def handle(request: Request) -> Response:
        try:
            body = await request.body.read(_MAX_ECHO_BYTES)
        except BodyTooLarge:
            return plain(413)
        fields = ((b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body)))
        return Response(200, fields, body)

    return handle


class Stamp(Middleware):
    """Adds a field to every response, and refuses requests that lack one."""

    #: Answers depend on a field of the request, so they must not be shared between clients.
    same_for_all = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        field = options.get("field", "x-stamp")
        if not isinstance(field, str) or not field.isascii():
            raise ValueError(f"field must be the name of a field, not {field!r}")
        self._edit = HeadEdit(set=((field.lower().encode(), b"velocity-edge-greeting"),))
        self._needed = str(options.get("needed", "")).lower().encode()

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* with the field on its answers, whether they come now or later."""
        edit, needed = self._edit, self._needed

        def stamped(answer: Answer) -> Answer:
            return answer.edited(edit)

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            if needed and request.header(needed) is None:
                return stamped(plain(403))
            return then(handler(request), stamped)

        return handle
