"""Cross-origin requests (CORS, Fetch standard section 3.2): which pages may read responses, and preflights.

A preflight (OPTIONS with Origin and Access-Control-Request-Method) is answered here, with 204, and never reaches the
handler: it has no credentials. An origin is permitted when the list has it; only then is it repeated in a response, so
no page can have its own origin reflected. Fields of this kind that the handler or an upstream sets are replaced: one
place decides. Responses that depend on the origin say so (`vary`), also those without permission.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from typing import Final

from velocity_edge.config.middlewares.cors import Cors
from workers.http import Answer, HeadEdit, Request, Response
from workers.pipeline import Handler, Middleware, then

_OWN: Final = frozenset(
    (
        b"access-control-allow-origin",
        b"access-control-allow-credentials",
        b"access-control-expose-headers",
    )
)
#: What stands for `*` in an origin: names, so that nothing else of an origin can be in its place.
_LABELS: Final = rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
#: Access-Control-Request-Headers: a list of names in lower case, without spaces after commas as browsers send it.
_NAMES: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+([ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_MAX_NAMES_BYTES: Final = 2048


class CrossOrigin(Middleware):
    """Answers preflights, and adds the permissions to responses."""

    def __init__(self, section: Cors) -> None:
        self._every = "*" in section.origins
        exact = [origin.encode() for origin in section.origins if "*" not in origin]
        self._exact = frozenset(exact)
        patterns = [re.escape(o).replace(r"\*", _LABELS.decode()) for o in section.origins if "*." in o]
        self._pattern = re.compile("|".join(patterns).encode()) if patterns else None
        self._credentials = section.credentials
        methods = b", ".join(method.encode() for method in section.methods)
        self._preflight = [(b"access-control-allow-methods", methods)]
        self._preflight.append((b"access-control-max-age", b"%d" % section.max_age_s))
        self._any_header = "*" in section.headers
        self._headers = b", ".join(name.encode() for name in section.headers)
        self._fields: list[tuple[bytes, bytes]] = []
        if section.credentials:
            self._fields.append((b"access-control-allow-credentials", b"true"))
        expose = b", ".join(name.encode() for name in section.expose)
        self._expose = [(b"access-control-expose-headers", expose)] if expose else []
        self._vary: Sequence[tuple[bytes, bytes]] = () if self._every else ((b"vary", b"origin"),)

    def permits(self, origin: bytes) -> bool:
        """Return whether pages of this origin may read responses."""
        if self._every or origin in self._exact:
            return True
        return self._pattern is not None and self._pattern.fullmatch(origin) is not None

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* with its permissions."""
        without = HeadEdit(remove=_OWN, add=tuple(self._vary))

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            origin = request.header(b"origin")
            if origin is not None and request.method == b"OPTIONS":
                asked = request.header(b"access-control-request-method")
                if asked is not None:
                    return self._answer(request, origin)
            edit = without
            if origin is not None and self.permits(origin):
                fields = (self._allowed(origin), *self._fields, *self._expose)
                edit = HeadEdit(remove=_OWN, set=fields, add=tuple(self._vary))
            return then(handler(request), lambda answer: answer.edited(edit))

        return handle

    def _answer(self, request: Request, origin: bytes) -> Response:
        vary = b"origin, access-control-request-method, access-control-request-headers"
        fields: list[tuple[bytes, bytes]] = [(b"vary", vary)]
        if self.permits(origin):
            fields += [self._allowed(origin), *self._fields, *self._preflight]
            names = self._headers
            if self._any_header:
                # "*" does not mean `authorization`, and means nothing with credentials: the names are repeated.
                asked = request.header(b"access-control-request-headers") or b""
                names = asked if len(asked) <= _MAX_NAMES_BYTES and _NAMES.fullmatch(asked) else b""
            if names:
                fields.append((b"access-control-allow-headers", names))
        return Response(204, tuple(fields))

    def _allowed(self, origin: bytes) -> tuple[bytes, bytes]:
        return b"access-control-allow-origin", b"*" if self._every else origin
