"""`kind: headers`: fields of requests and responses are set, added or removed, as the configuration says.

Fields of a request are changed for the upstream only (`Request.upstream_fields`, `upstream_drop`). Changes of a
response do not look at the request, so that responses may still be shared.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from velocity_edge.config.middlewares.headers import Changes, Headers
from workers.http import Answer, HeadEdit, Request
from workers.pipeline import Handler, Middleware, then


class EditHeaders(Middleware):
    """Changes fields."""

    same_for_all = True

    def __init__(self, section: Headers) -> None:
        self._response = edit_of(section.response)
        request = edit_of(section.request)
        self._drop = [*sorted(request.remove), *(name for name, _ in request.set)]
        self._fields = [*request.set, *request.add]

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* with the changes around it."""
        edit, drop, fields = self._response, self._drop, self._fields
        dropped = frozenset(drop)

        def finish(answer: Answer) -> Answer:
            return answer.edited(edit)

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            if drop:
                # Also what an outer middleware has added.
                request.upstream_fields = [field for field in request.upstream_fields if field[0] not in dropped]
                request.upstream_drop += drop
            request.upstream_fields += fields
            return then(handler(request), finish)

        return handle


def edit_of(changes: Changes) -> HeadEdit:
    """Return *changes* of the configuration as a `HeadEdit`."""
    return HeadEdit(
        frozenset(name.lower().encode() for name in changes.remove),
        _encoded(changes.set),
        _encoded(changes.add),
        _encoded(changes.default),
    )


def _encoded(fields: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode(), value.encode()) for name, value in fields.items())
