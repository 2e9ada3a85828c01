"""`action: {type: text}` and `{type: json}`: answers in which parameters of the route's path can stand.

An answer without parameters is a fixed one (fixed.py); one with them is made for each request. In JSON, a parameter
stands in texts only, and is encoded with them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from velocity_edge.config.actions import JsonAnswer, TextAnswer
from velocity_edge.config.patterns import Pattern
from workers.handlers.fixed import FixedHandler, encoded
from workers.http import Request, Response
from workers.pipeline import Handler

Params = Mapping[str, str]


def filled_handler(action: TextAnswer | JsonAnswer, pattern: Pattern, max_body_bytes: int) -> Handler:
    """Return the handler; *pattern*: the path of the route. *max_body_bytes*: bound of request bodies."""
    headers = encoded(action.headers)
    make: Callable[[Params], bytes]
    if isinstance(action, TextAnswer):
        text = template = action.body
        kind = b"text/plain; charset=utf-8"

        def make(params: Params) -> bytes:
            return _filled(text, params).encode(errors="replace")

    else:
        body = action.body
        template = orjson.dumps(body).decode()
        kind = b"application/json"

        def make(params: Params) -> bytes:
            return orjson.dumps(_in_texts(body, params))

    if all(name != b"content-type" for name, _ in headers):
        headers = (*headers, (b"content-type", kind))
    fixed = FixedHandler(action.status, headers, make({}), max_body_bytes)
    if not any(f"{{{name}}}" in template for name in pattern.parameters):
        return fixed

    def handle(request: Request) -> Response | Awaitable[Response]:
        return FixedHandler(action.status, headers, make(request.params), max_body_bytes)(request)

    return handle


def _filled(text: str, params: Params) -> str:
    # In one go: a value that looks like a parameter stays as it is.
    parts = text.split("{")
    for i, part in enumerate(parts[1:], 1):
        name, closed, rest = part.partition("}")
        parts[i] = params[name] + rest if closed and name in params else "{" + part
    return "".join(parts)


def _in_texts(value: Any, params: Params) -> Any:
    if isinstance(value, str):
        return _filled(value, params)
    if isinstance(value, list):
        return [_in_texts(entry, params) for entry in value]
    if isinstance(value, dict):
        return {key: _in_texts(entry, params) for key, entry in value.items()}
    return value
