"""The metrics of one server that are counted with each request: responses, times, errors, retries, ejections. Pure.

What an upstream has at the moment (connections, health) is in overview.py.
"""

from __future__ import annotations

from velocity_edge.http.requests import Outcome, UpstreamEnded
from workers.measures import Counter, Measures

_REQUESTS = "velocity_upstream_requests_total"
_ERRORS = "velocity_upstream_errors_total"
_DURATION = "velocity_upstream_request_duration_seconds"
_CONNECT = "velocity_upstream_connect_duration_seconds"
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
