"""`action: {type: file}`: one file for every path of a route, with ranges and validators like the files of a site.

The handler of a site finds the file in its directory, so that a file of the same name that replaces it is served, too.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import Final
from urllib.parse import quote_from_bytes

from velocity_edge.config.actions import FileAnswer
from velocity_edge.config.content import Site
from workers.http import Answer, HeadEdit, Headers, Request, Response
from workers.pipeline import Handler, then

#: Ranges and preconditions are about a 200.
_CONDITIONAL: Final = (b"range", b"if-")


def site_of(action: FileAnswer) -> Site:
    """Return the site that has the file at its root."""
    keys = {"hostname": "*", "root": os.fspath(action.path.parent), "cache_control": action.cache_control}
    return Site.model_validate({**keys, "hidden_files": True}, strict=False)


class FileHandler:
    """A `Handler` with one file."""

    def __init__(self, action: FileAnswer, files: Handler, headers: Headers) -> None:
        """*files*: the handler of `site_of`. *headers*: those of the action, names in lower case."""
        self._files = files
        self._target = b"/" + quote_from_bytes(os.fsencode(action.path.name)).encode()
        self._status = action.status
        self._edit = HeadEdit(set=tuple(headers))

    def __call__(self, request: Request) -> Answer | Awaitable[Answer]:
        """Answer with the file."""
        fields = request.headers
        if self._status != 200:
            fields = [field for field in fields if not field[0].startswith(_CONDITIONAL)]
        asked = Request(request.method, request.authority, self._target, fields, body=request.body)
        return then(self._files(asked), self._finish)

    def _finish(self, answer: Answer) -> Answer:
        if not isinstance(answer, Response) or answer.status not in (200, 206, 304):
            return answer
        status = self._status if answer.status == 200 else answer.status
        return Response(status, self._edit.apply(answer.headers), answer.body, answer.shared, answer.trailers)
