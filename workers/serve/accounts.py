"""What is recorded of each answered request, once: its series, its span, its line in the access log.

Exchanges call `answered` when the response is complete, or with 499 when the client did not wait for it. What is logged
and how is the revision's (access_log.py), what is counted is in counted.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from random import getrandbits
from typing import Any, Final

from velocity_edge.http.requests import RequestReceived
from workers.http import Request
from workers.measures import Measures
from workers.serve.access_lines import UpstreamTimes
from workers.serve.access_log import AccessLog
from workers.serve.connections import Connections
from workers.serve.counted import RequestSeries
from workers.serve.exchange import Exchange
from workers.serve.otlp import client_span, server_span
from workers.serve.request_id import RequestIds
from workers.serve.revision import Revision
from workers.serve.spans import SpanExporter
from workers.serve.trace_context import TRACE_FIELDS, Trace, trace_of

#: The client closed its stream or connection before the response was complete (nginx's number).
CLIENT_GONE: Final = 499


class Accounts:
    """The records of one worker."""

    def __init__(
        self,
        connections: Connections,
        measures: Measures,
        write_log: Callable[[bytes], None],
        clock: Callable[[], float],
        start: Callable[[Coroutine[Any, Any, None]], object],
        now_ns: Callable[[], int],
    ) -> None:
        """*write_log* takes lines of the access log and must not wait. *clock* is wall time in seconds.

        *start* runs a coroutine as a task of the worker; *now_ns* is monotonic.
        """
        self._connections = connections
        self._count = RequestSeries(measures).count
        self._clock = clock
        self._ids = RequestIds(os.urandom(5))
        self.access_log = AccessLog(write_log, clock)
        self.spans = SpanExporter(measures, start, lambda: now_ns() * 1e-9, f"{os.getpid()}-{os.urandom(4).hex()}")

    def begin(self, request: Request, revision: Revision) -> None:
        """Give a request its id and its trace, before handlers see it."""
        request.id = self._ids.of(request.headers, trust=revision.trust_request_id)
        if revision.tracing is not None:
            request.trace = trace = trace_of(request.headers, revision.tracing.rule, getrandbits)
            request.upstream_drop += TRACE_FIELDS
            request.upstream_fields += trace.fields()

    def answered(
        self,
        event: RequestReceived,
        revision: Revision | None,
        status: int,
        body_bytes: int,
        started_s: float,
        *,
        exchange: Exchange | None = None,
        site: str = "",
    ) -> None:
        """Record a request that was received at *started_s* and answered now.

        *exchange* has its `Request` and its upstream, if there are any; without one, *site* is the site.
        """
        request = None
        if exchange is not None:
            request, site = exchange.request, exchange.site
        now_s = self._clock()
        self._count(site, event.method, status, body_bytes, now_s - started_s)
        if revision is None or (revision.access is None and revision.tracing is None):
            return
        upstream = _upstream_times(request)
        request_id = request.id if request is not None else b""
        trace_id = ""
        if (tracing := revision.tracing) is not None:
            known: Trace | None = request.trace if request is not None else None
            trace = known or trace_of(event.headers, tracing.rule, getrandbits)
            trace_id = trace.trace_id
            if trace.sampled:
                self.spans.add(
                    server_span(
                        trace,
                        event,
                        site=site,
                        status=status,
                        body_bytes=body_bytes,
                        started_s=started_s,
                        ended_s=now_s,
                        request_id=request_id,
                    )
                )
                if upstream is not None:
                    self.spans.add(client_span(trace, event.method, upstream, now_s))
        if revision.access is None or not self.access_log.wants(revision.access, status):
            return
        connections, connection = self._connections, event.connection
        self.access_log.add(
            revision.access,
            event,
            request.client if request is not None else connections.peers.get(connection),
            status,
            body_bytes,
            started_s,
            request_id=request_id or self._ids.of(event.headers, trust=revision.trust_request_id),
            site=site,
            group=connections.groups.get(connection, ""),
            upstream=upstream,
            trace_id=trace_id,
        )


def _upstream_times(request: Request | None) -> UpstreamTimes | None:
    if request is None or request.upstream is None:
        return None
    address, end, attempts = request.upstream
    return UpstreamTimes(address, end.status, end.connect_ns * 1e-9, end.head_ns * 1e-9, end.total_ns * 1e-9, attempts)
