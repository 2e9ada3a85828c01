"""One revision of the configuration as requests use it, and its end: after its last request, not when it is replaced.

Requests that are answered within one turn need no count: they hold nothing afterwards but the response's body, whose
file stays open as long as an engine reads from it. Only requests that run as tasks are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from velocity_edge.http.forwarded import TrustedProxies
from workers.http import Request
from workers.pipeline import Pipeline
from workers.serve.access_log import AccessRule
from workers.serve.spans import Send
from workers.serve.trace_context import TraceRule


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Tracing:
    """Which traces are exported, and how a body reaches the collector (spans.py)."""

    rule: TraceRule
    send: Send


@dataclass(slots=True)
class Revision:
    """What requests need of one configuration: which pipeline, and how they are logged."""

    number: int
    #: A request -> what answers it.
    find: Callable[[Request], Pipeline]
    #: None: requests are not logged.
    access: AccessRule | None = None
    #: The `x-request-id` of clients is used.
    trust_request_id: bool = False
    #: Proxies in front of this node, which say who a client is.
    trusted: TrustedProxies | None = None
    #: None: there is no collector.
    tracing: Tracing | None = None
    #: Called once, when the revision was replaced and no request uses it any more.
    release: Callable[[], None] = _nothing
    _running: int = field(default=0, init=False)
    _replaced: bool = field(default=False, init=False)

    def enter(self) -> None:
        """Count a request that runs as a task."""
        self._running += 1

    def leave(self, result: object) -> None:
        """Such a request ended. *result* is what its handler returned.

        A stream that is closed in the turn in which it was opened cancels the task before it has begun.
        """
        if result is not None and isinstance(result, Coroutine):
            result.close()
        self._running -= 1
        self._release_if_over()

    def replace(self) -> None:
        """No further request will use this revision."""
        if not self._replaced:
            self._replaced = True
            self._release_if_over()

    def _release_if_over(self) -> None:
        if self._replaced and not self._running:
            self.release()
