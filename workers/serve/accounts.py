"""What is recorded of each answered request, once: its series, its line in the access log.

Exchanges call `answered` when the response is complete, or with 499 when the client did not wait for it. What is logged
and how is the revision's (access_log.py), what is counted is in counted.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from velocity_edge.http.requests import RequestReceived
from workers.http import Request
from workers.measures import Measures
from workers.serve.access_lines import UpstreamTimes
from workers.serve.access_log import AccessLog
from workers.serve.connections import Connections
from workers.serve.counted import RequestSeries
from workers.serve.exchange import Exchange
from workers.serve.request_id import RequestIds
from workers.serve.revision import Revision

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
    ) -> None:
        """*write_log* takes lines of the access log and must not wait. *clock* is wall time in seconds."""
        self._connections = connections
        self._count = RequestSeries(measures).count
        self._clock = clock
        self._ids = RequestIds(os.urandom(5))
        self.access_log = AccessLog(write_log, clock)

    def begin(self, request: Request, revision: Revision) -> None:
        """Give a request its id, before handlers see it."""
        request.id = self._ids.of(request.headers, trust=revision.trust_request_id)

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
        self._count(site, event.method, status, body_bytes, self._clock() - started_s)
        if revision is None or revision.access is None or not self.access_log.wants(revision.access, status):
            return
        connections, connection = self._connections, event.connection
        request_id = request.id if request is not None else b""
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
            upstream=_upstream_times(request),
        )


def _upstream_times(request: Request | None) -> UpstreamTimes | None:
    if request is None or request.upstream is None:
        return None
    address, end, attempts = request.upstream
    return UpstreamTimes(address, end.status, end.connect_ns * 1e-9, end.head_ns * 1e-9, end.total_ns * 1e-9, attempts)
