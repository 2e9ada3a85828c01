"""Guards of authentication without a node: a clock, a server that answers what a test says, and a handler inside."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from velocity_edge.config.section import Section
from workers.http import Answer, Request, Response
from workers.measures import Measures
from workers.middleware.auth.document import Unavailable
from workers.pipeline import Middleware
from workers.proxy.client import Fetched

Field = tuple[bytes, bytes]


S = TypeVar("S", bound=Section)


def section(model: type[S], **values: Any) -> S:
    """Return the section with these values, as from a file; it must have no problems."""
    made = model.model_validate_json(json.dumps(values))
    assert not list(made.problems())
    return made


class Servers:
    """What `Fetch` reaches. An address without an answer is one that cannot be reached."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[bytes], Fetched]] = {}
        #: Method, address, fields and body of each request.
        self.asked: list[tuple[str, str, list[Field], bytes]] = []
        #: While it is not set, requests wait.
        self.open = asyncio.Event()
        self.open.set()

    def has(self, url: str, body: bytes | dict[str, Any], status: int = 200, *fields: Field) -> None:
        """Answer *url* with this."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[url] = lambda _: Fetched(status, list(fields), content)

    async def __call__(
        self, url: str, *, method: str = "GET", headers: Sequence[Field] = (), body: bytes = b""
    ) -> Fetched:
        """See `Fetch`."""
        self.asked.append((method, url, list(headers), body))
        await self.open.wait()
        answer = self.answers.get(url)
        if answer is None:
            raise Unavailable(f"{url}: refused")
        return answer(body)

    def count(self, url: str) -> int:
        """Return how often *url* was asked."""
        return sum(asked[1] == url for asked in self.asked)


def request(target: bytes = b"/", *fields: Field, method: bytes = b"GET", **more: Any) -> Request:
    """Return a request for edge.test from 192.0.2.7."""
    return Request(method, b"edge.test", target, fields, peer=(bytes((192, 0, 2, 7)), 5), **more)


async def answered(answer: Answer | Awaitable[Answer]) -> Response:
    """Return the response, whether it is there or comes later."""
    found = answer if isinstance(answer, Answer) else await answer
    assert isinstance(found, Response)
    return found


class Around:
    """A guard around a handler that answers 200 and remembers what it got."""

    def __init__(self, guard: Middleware) -> None:
        self.guard = guard
        self.served: list[Request] = []
        self._handle = guard.wrap(self._serve)

    def _serve(self, asked: Request) -> Response:
        self.served.append(asked)
        return Response(200, ((b"content-type", b"text/plain"),), b"secret")

    async def __call__(self, asked: Request) -> Response:
        """Return the response to *asked*."""
        path = self.guard.paths().get(asked.path)
        return await answered(path(asked) if path is not None else self._handle(asked))


def field(response: Response, name: bytes) -> bytes | None:
    """Return a field of a response that it has at most once."""
    values = [value for key, value in response.headers if key == name]
    assert len(values) < 2, values
    return values[0] if values else None


def decisions(measures: Measures) -> Counter[str]:
    """Return how often each result was counted."""
    rows = measures.changes().get("velocity_auth_total", [])
    return Counter({labels[1]: int(numbers[0]) for labels, numbers in rows})
