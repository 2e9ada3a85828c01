"""Fields that are added to every response: `server`, `date`, and the security headers that a site can disable.

A field that the handler set itself is not changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from workers.handlers.static.conditions import format_date
from workers.http import Answer, Forward, HeadEdit, Headers, Request, Response
from workers.pipeline import Handler, Middleware, then

#: Fields that are safe for every site. No content-security-policy: `default-src 'self'` breaks pages, and only their
#: author knows what they load. No strict-transport-security: the operator may serve the same name by plain HTTP.
SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
)


class Date:
    """The `date` field, formatted once per second."""

    __slots__ = ("_clock", "_field", "_second")

    def __init__(self, clock: Callable[[], float]) -> None:
        """*clock* is wall time in seconds."""
        self._clock = clock
        self._second = -1
        self._field = (b"date", b"")

    def __call__(self) -> tuple[bytes, bytes]:
        """Return the field for now."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._field = (b"date", format_date(second))
        return self._field


class Defaults(Middleware):
    """Adds fields to responses that have none of that name."""

    same_for_all = True

    def __init__(self, fields: Headers) -> None:
        self._edit = HeadEdit(default=tuple(fields))

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* with the fields added to its responses."""
        edit = self._edit
        return lambda request: then(handler(request), lambda answer: answer.edited(edit))


class AddHeaders(Middleware):
    """Adds fields and the date to responses that have none of that name."""

    same_for_all = True

    def __init__(self, fields: Headers, date: Callable[[], tuple[bytes, bytes]]) -> None:
        self._fields = tuple(fields)
        self._date = date

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* with the fields added to its responses."""
        fields, date = self._fields, self._date
        names = frozenset((b"date", *(name for name, _ in fields)))
        edit = HeadEdit(default=(*fields, date()))

        def finish(answer: Answer) -> Answer:
            nonlocal edit
            now = date()
            if isinstance(answer, Forward):
                if edit.default[-1] is not now:
                    edit = HeadEdit(default=(*fields, now))
                return answer.edited(edit)
            added = (*fields, now)
            for name, _ in answer.headers:
                if name in names:
                    own = {name for name, _ in answer.headers}
                    added = tuple(field for field in added if field[0] not in own)
                    break
            return Response(answer.status, (*answer.headers, *added), answer.body, answer.shared, answer.trailers)

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            return then(handler(request), finish)

        return handle
