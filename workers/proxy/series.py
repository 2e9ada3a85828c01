"""The metrics of one server: responses, times, errors, retries, ejections, connections, health. Pure.

Series are kept here because they are counted for each request; they are forgotten with the server.
"""

from __future__ import annotations

from velocity_edge.http.requests import Outcome, UpstreamEnded
from velocity_edge.http.upstreams import PoolCounts
from workers.measures import Counter, Measures

_REQUESTS = "velocity_upstream_requests_total"
_ERRORS = "velocity_upstream_errors_total"
_DURATION = "velocity_upstream_request_duration_seconds"
_CONNECT = "velocity_upstream_connect_duration_seconds"
_CONNECTIONS = "velocity_upstream_connections"
_HEALTHY = "velocity_upstream_healthy"
_RETRIES = "velocity_upstream_retries_total"
_EJECTIONS = "velocity_upstream_ejections_total"


class ServerSeries:
    """The series of one server. Several servers of one address (of routes with other settings) have the same ones."""

    def __init__(self, measures: Measures, upstream: str) -> None:
        self._measures = measures
        self._upstream = upstream
        self._codes: dict[int, Counter] = {}
        self._errors: dict[int, Counter] = {}
        self._duration = measures.histogram(_DURATION, (upstream,))
        self._connect = measures.histogram(_CONNECT, (upstream,))
        self._retries = measures.counter(_RETRIES, (upstream,))
        self._ejections = measures.counter(_EJECTIONS, (upstream,))
        self._healthy = measures.gauge_of(_HEALTHY, (upstream,))
        self._idle = measures.gauge_of(_CONNECTIONS, (upstream, "idle"))
        self._running = measures.gauge_of(_CONNECTIONS, (upstream, "running"))

    def ended(self, end: UpstreamEnded) -> None:
        """Count an attempt."""
        if end.status:
            code = self._codes.get(end.status)
            if code is None:
                code = self._measures.counter(_REQUESTS, (self._upstream, str(end.status)))
                self._codes[end.status] = code
            code.value += 1
            self._duration.observe(end.total_ns * 1e-9)
        if end.connect_ns and not end.reused:
            self._connect.observe(end.connect_ns * 1e-9)
        if end.outcome != Outcome.COMPLETE:
            error = self._errors.get(end.outcome)
            if error is None:
                name = Outcome(end.outcome).name.lower()
                error = self._errors[end.outcome] = self._measures.counter(_ERRORS, (self._upstream, name))
            error.value += 1

    def retried(self) -> None:
        """Count another attempt for the same request."""
        self._retries.value += 1

    def ejected(self) -> None:
        """Count that the server is left out for a while."""
        self._ejections.value += 1

    def show(self, healthy: bool, counts: PoolCounts) -> None:
        """Set the gauges."""
        self._healthy.value = float(healthy)
        self._idle.value = counts.idle
        self._running.value = counts.open - counts.idle

    def forget(self) -> None:
        """Remove the gauges: the server is gone. Counters stay, as what was counted has happened."""
        self._measures.forget(_HEALTHY, (self._upstream,))
        for state in ("idle", "running"):
            self._measures.forget(_CONNECTIONS, (self._upstream, state))
